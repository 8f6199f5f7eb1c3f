//! The harness for raw bytes itself.

use std::time::Duration;

use weft_integration::assert::wait_for;
use weft_integration::raw::{DEADLINE, End, Pair, Plan, Protocol, Step, Wire, find};

const ASK: &[u8] = b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

fn script() -> [Step; 2] {
    [Step::Await(b"\r\n\r\n".to_vec()), Step::Send(ANSWER.to_vec())]
}

#[tokio::test]
async fn bytes_pass_each_kind_of_pair_and_are_recorded() {
    let protocols = [Protocol::Http, Protocol::Detected];
    for plan in [Plan::mesh(&protocols), Plan::single(&protocols)] {
        let pair = Pair::start(plan).await.unwrap();
        for door in &pair.doors {
            let served = async { door.backend.accept().await.unwrap().play(&script()).await.unwrap().unwrap() };
            let called = async {
                let mut client = Wire::connect(door.port).await.unwrap();
                client.send_pieces(ASK.chunks(7)).await.unwrap();
                assert_eq!(client.read_to_end(DEADLINE).await, End::Fin);
                client
            };
            let (server, client) = tokio::join!(served, called);
            assert!(client.received().ends_with(b"\r\n\r\nok"), "{client:?}");
            assert!(server.received().starts_with(b"GET /a HTTP/1.1\r\n"), "{server:?}");
            let identified = find(server.received(), b"URI=spiffe://cluster.local/ns/default/sa/client");
            assert_eq!(identified.is_some(), !plan.single, "{server:?}");
        }
        for proxy in pair.inbound.iter().chain([&pair.outbound]) {
            let record = proxy.record(0, |record| record["status"] == 200).await.unwrap();
            assert_eq!(record["method"], "GET");
            let counted = wait_for("both requests in the metrics", DEADLINE, || async {
                let count = proxy.metric("weft_requests_total", &["class=\"2xx\""]).await.unwrap();
                if count == 2.0 { Ok(()) } else { Err(format!("{count} are")) }
            });
            counted.await.unwrap();
            assert!(proxy.memory_kib().unwrap() > 1000 && proxy.open_fds().unwrap() > 3);
        }
    }
}

#[tokio::test]
async fn ends_are_told_apart_and_a_backend_serves_many() {
    let pair = Pair::start(Plan::single(&[Protocol::Tcp])).await.unwrap();
    let door = &pair.doors[0];
    let served = door.backend.serve(|mut wire| async move {
        let first = wire.read_bytes(1).await.map(|()| wire.received()[0]).unwrap();
        let steps = match first {
            b'f' => vec![Step::HalfClose, Step::AwaitEnd],
            b'r' => vec![Step::Reset],
            _ => vec![Step::AwaitEnd],
        };
        wire.play(&steps).await.unwrap()
    });
    for (said, within, expected) in [
        (b"f", DEADLINE, End::Fin),
        (b"r", DEADLINE, End::Reset),
        // Nothing happens: however long one waits is enough.
        (b"o", Duration::from_millis(100), End::Open),
    ] {
        let mut client = Wire::connect(door.port).await.unwrap();
        client.send(said).await.unwrap();
        assert_eq!(client.read_to_end(within).await, expected, "{said:?}");
    }
    let over = wait_for("both scripts that end", DEADLINE, || async {
        let mut received = served.received();
        received.sort();
        if received == [b"f", b"o"] { Ok(()) } else { Err(format!("{received:?}")) }
    });
    over.await.unwrap();
}
