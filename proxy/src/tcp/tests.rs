mod splicing;

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;

async fn pair() -> (TcpStream, Stream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (near.unwrap(), Stream::plain(far.unwrap().0))
}

#[tokio::test]
async fn both_directions_end_apart() {
    let (reserve, moved) = (Reserve::default(), Moved::default());
    let ((mut client, downstream), (mut server, upstream)) = tokio::join!(pair(), pair());
    let relayed = tokio::task::LocalSet::new();
    let body = vec![7_u8; 3 << 20];
    let (end, (), got) = relayed
        .run_until(async {
            tokio::join!(
                relay(&reserve, downstream, upstream, &moved),
                async {
                    client.write_all(&body).await.unwrap();
                    client.shutdown().await.unwrap();
                },
                async {
                    let mut got = Vec::new();
                    server.read_to_end(&mut got).await.unwrap();
                    server.write_all(b"all of it").await.unwrap();
                    drop(server);
                    got.len()
                }
            )
        })
        .await;
    let mut reply = String::new();
    client.read_to_string(&mut reply).await.unwrap();
    assert_eq!((got, reply.as_str()), (3 << 20, "all of it"));
    assert_eq!(end, RelayEnd { up: 3 << 20, down: 9, fault: None });
}

#[tokio::test]
async fn a_reset_is_passed_on_as_a_reset() {
    let (reserve, moved) = (Reserve::default(), Moved::default());
    let ((client, downstream), (mut server, upstream)) = tokio::join!(pair(), pair());
    crate::net::reset(client);
    let end =
        tokio::time::timeout(Duration::from_secs(5), relay(&reserve, downstream, upstream, &moved)).await.unwrap();
    assert_eq!(end.fault, Some(FaultKind::DownstreamReset));
    assert_eq!(server.read(&mut [0; 8]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

/// A server may say why before it hangs up on a client that is still sending.
#[tokio::test]
async fn the_last_words_of_who_cannot_be_written_to_are_delivered() {
    let (reserve, moved) = (Reserve::default(), Moved::default());
    let ((mut client, downstream), (mut server, upstream)) = tokio::join!(pair(), pair());
    let ending = async {
        server.read_exact(&mut [0; 4]).await.unwrap();
        server.write_all(b"too large").await.unwrap();
        // With bytes unread this closes by a reset.
        drop(server);
    };
    let sending = async {
        let mut said = Vec::new();
        let (mut reading, mut writing) = client.split();
        let talk = async { while writing.write_all(&[7; 4096]).await.is_ok() {} };
        tokio::select! {
            () = talk => {}
            _ = reading.read_to_end(&mut said) => {}
        }
        reading.read_to_end(&mut said).await.unwrap_or_default();
        said
    };
    let (end, (), said) = tokio::time::timeout(Duration::from_secs(5), async {
        tokio::join!(relay(&reserve, downstream, upstream, &moved), ending, sending)
    })
    .await
    .unwrap();
    assert_eq!((end.down, end.fault), (9, Some(FaultKind::UpstreamReset)));
    drop(said);
}
