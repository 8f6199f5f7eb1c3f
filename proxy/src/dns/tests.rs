//! The resolver over real sockets, and messages that nobody would send.

use std::time::Duration;

use super::forward::{Way, ask};
use super::packet::{Parsed, Question, parse};
use super::*;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn question(message: &Message) -> Question {
    match parse(&message.to_vec().unwrap()) {
        Parsed::Question(question) => *question,
        other @ (Parsed::Refused(_) | Parsed::Dropped) => panic!("{other:?}"),
    }
}

/// One in static mode that knows `default/cart`, without upstreams.
fn resolver() -> (Arc<DnsCounts>, SocketAddr) {
    resolver_of(None)
}

fn resolver_of(control_plane: Option<&str>) -> (Arc<DnsCounts>, SocketAddr) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("static.yaml");
    let service = "{namespace: default, name: cart, ports: [{port: 80}], virtualIps: [240.0.0.7]}";
    let listener = "{name: out, address: '127.0.0.1:0', outbound: {namespace: default, name: cart, port: 80}}";
    std::fs::write(
        &file,
        format!("mesh: {{trustDomain: cluster.local}}\nlisteners: [{listener}]\nservices: [{service}]\n"),
    )
    .unwrap();
    let snapshot = crate::feed::static_config::load(&file).unwrap().snapshot;
    let setup = DnsSetup {
        supervisor: Supervisor::default(),
        listen: "127.0.0.1:0".parse().unwrap(),
        resolv_conf: "/nonexistent/resolv.conf".into(),
        snapshot: Arc::new(ArcSwap::from_pointee(snapshot)),
        control_plane: control_plane.map(ControlPlane::new),
        identity: watch::channel(None).1,
        clock: Clock::start(),
    };
    start(setup).unwrap()
}

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

async fn exchange(server: SocketAddr, message: &Message) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&message.to_vec().unwrap(), server).await.unwrap();
    let mut buffer = [0; 4096];
    let (length, _) = in_time(socket.recv_from(&mut buffer)).await.unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

#[tokio::test]
async fn names_of_the_mesh_are_answered_without_upstreams() {
    let (_, server) = resolver();
    for name in ["cart.", "CaRt.", "cart.default.", "cart.default.svc.", "cart.Default.svc.Cluster.local."] {
        let asked = query(name, RecordType::A);
        let answer = exchange(server, &asked).await;
        assert_eq!(answer.metadata.id, 4711);
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError, "{name}");
        assert!(answer.metadata.recursion_available && answer.metadata.recursion_desired);
        assert!(answer.metadata.authoritative);
        assert!(answer.queries[0].name().eq_case(asked.queries[0].name()), "{name} in its own case");
        let texts: Vec<String> = answer.answers.iter().map(|record| record.data.to_string()).collect();
        assert_eq!(texts, ["240.0.0.7"], "{name}");
        assert_eq!(answer.answers[0].ttl, 30);
        for kind in [RecordType::AAAA, RecordType::MX, RecordType::HTTPS] {
            let none = exchange(server, &query(name, kind)).await;
            assert_eq!((none.metadata.response_code, none.answers.len()), (ResponseCode::NoError, 0), "{name} {kind}");
        }
    }
    let absent = exchange(server, &query("nobody.default.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(absent.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(absent.authorities.len(), 1, "for how long that holds");
    let other = exchange(server, &query("example.com.", RecordType::A)).await;
    assert_eq!(other.metadata.response_code, ResponseCode::ServFail, "nobody to ask");
}

/// Goal: who has to join first can find out where.
#[tokio::test]
async fn before_there_is_an_identity_others_are_asked_for_the_control_plane() {
    let (counts, server) = resolver_of(Some("weft.mesh.svc.cluster.local:15010"));
    for name in ["weft.mesh.svc.cluster.local.", "WEFT.mesh.svc.cluster.local.", "nobody.mesh.svc.cluster.local."] {
        for kind in [RecordType::A, RecordType::AAAA] {
            exchange(server, &query(name, kind)).await;
        }
    }
    let mut page = String::new();
    counts.render(&mut page);
    // There is nobody to ask; what counts is who would be.
    for expected in ["outcome=\"upstream_failed\"} 4", "outcome=\"unknowable\"} 2"] {
        assert!(page.contains(expected), "{expected} in {page}");
    }
}

#[tokio::test]
async fn what_is_no_good_question_is_refused_or_dropped() {
    let (counts, server) = resolver();
    let mut status = query("cart.", RecordType::A);
    status.metadata.op_code = OpCode::Status;
    let mut two = query("cart.", RecordType::A);
    two.add_query(two.queries[0].clone());
    let none = Message::new(1, MessageType::Query, OpCode::Query);
    // RFC 6891, 6.1.3: of a version that we do not know, and in the one that we do.
    let mut later = query("cart.", RecordType::A);
    later.set_edns(Edns::new()).edns.as_mut().unwrap().set_version(1);
    let answer = exchange(server, &later).await;
    // Number 16 has two names.
    assert_eq!((u16::from(answer.metadata.response_code), answer.answers.len()), (16, 0));
    assert_eq!(answer.edns.unwrap().version(), 0);
    for (message, code) in [(status, ResponseCode::NotImp), (two, ResponseCode::FormErr), (none, ResponseCode::FormErr)]
    {
        let answer = exchange(server, &message).await;
        assert_eq!((answer.metadata.id, answer.metadata.response_code), (message.metadata.id, code));
    }
    // Neither is answered; a good question after them is.
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut response = query("cart.", RecordType::A);
    response.metadata.message_type = MessageType::Response;
    for packet in [response.to_vec().unwrap(), vec![1, 2, 3]] {
        socket.send_to(&packet, server).await.unwrap();
    }
    exchange(server, &query("cart.", RecordType::A)).await;
    assert_eq!(socket.try_recv(&mut [0; 512]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    let mut page = String::new();
    counts.render(&mut page);
    for expected in ["outcome=\"refused\"} 4", "outcome=\"dropped\"} 2", "outcome=\"answered\"} 1"] {
        assert!(page.contains(expected), "{expected} in {page}");
    }
}

#[tokio::test]
async fn a_connection_carries_several_questions() {
    let (_, server) = resolver();
    let mut stream = TcpStream::connect(server).await.unwrap();
    let packet = query("cart.", RecordType::A).to_vec().unwrap();
    let framed = forward::framed(&packet).unwrap();
    stream.write_all(&[framed.clone(), framed].concat()).await.unwrap();
    for _ in 0..2 {
        let mut answer = vec![0; in_time(stream.read_u16()).await.unwrap().into()];
        in_time(stream.read_exact(&mut answer)).await.unwrap();
        assert_eq!(Message::from_vec(&answer).unwrap().answers.len(), 1);
    }
    // A length that no question has ends it.
    stream.write_all(&[0, 3, 1, 2, 3]).await.unwrap();
    assert!(!matches!(in_time(stream.read(&mut [0; 16])).await, Ok(1..)));
}

/// Goal: of all that comes to the port of a question, only an answer with its id and its question counts.
#[tokio::test]
async fn forged_and_late_answers_are_dropped() {
    let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let server = upstream.local_addr().unwrap();
    let asked = query("example.com.", RecordType::A);
    let forger = async {
        let mut buffer = [0; 512];
        let (length, client) = in_time(upstream.recv_from(&mut buffer)).await.unwrap();
        let good = Message::from_vec(&buffer[..length]).unwrap().into_response();
        let mut wrong_id = good.clone();
        wrong_id.metadata.id ^= 1;
        let mut wrong_name = good.clone();
        wrong_name.queries = query("example.org.", RecordType::A).queries;
        let mut wrong_type = good.clone();
        wrong_type.queries = query("example.com.", RecordType::AAAA).queries;
        let mut no_response = good.clone();
        no_response.metadata.message_type = MessageType::Query;
        // Nor does another server's count.
        let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut refused = good.clone();
        refused.metadata.response_code = ResponseCode::Refused;
        stranger.send_to(&refused.to_vec().unwrap(), client).await.unwrap();
        for message in [wrong_id, wrong_name, wrong_type, no_response, good] {
            upstream.send_to(&message.to_vec().unwrap(), client).await.unwrap();
        }
    };
    let counts = DnsCounts::default();
    let question = question(&asked);
    let (answer, ()) = tokio::join!(in_time(ask(&question, Way::Udp, server, &counts)), forger);
    let answer = Message::from_vec(&question.returned(answer.unwrap())).unwrap();
    assert_eq!((answer.metadata.id, answer.metadata.response_code), (4711, ResponseCode::NoError));
    let mut page = String::new();
    counts.render(&mut page);
    assert!(page.contains("weft_dns_stray_answers_total 4\n"), "{page}");
}

#[test]
fn an_answer_is_as_long_as_the_client_takes_it() {
    let plain = query("example.com.", RecordType::TXT);
    let mut large = plain.clone();
    large.set_edns(Edns::new()).edns.as_mut().unwrap().set_max_payload(1400);
    for (message, taken) in [(plain, 512), (large, 1400)] {
        let question = question(&message);
        let mut answer = message.clone().into_response().to_vec().unwrap();
        answer.resize(taken, 0);
        assert_eq!(question.by_udp(answer.clone()).unwrap(), answer);
        answer.push(0);
        let cut = Message::from_vec(&question.by_udp(answer).unwrap()).unwrap();
        assert!(cut.metadata.truncation && cut.metadata.id == 4711 && cut.answers.is_empty());
    }
}

proptest! {
    /// Any bytes: no panic, and no answer that could be taken for one to another question.
    #[test]
    fn any_packet_is_borne(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        if let Parsed::Refused(answer) = parse(&bytes) {
            prop_assert_eq!(&answer[..2], &bytes[..2]);
        }
    }

    /// A good question with any bytes changed.
    #[test]
    fn any_damaged_question_is_borne(damage in prop::collection::vec((0_usize..60, any::<u8>()), 0..6), cut in 0_usize..60) {
        let mut message = query("cart.default.svc.cluster.local.", RecordType::A);
        message.set_edns(Edns::new());
        let mut bytes = message.to_vec().unwrap();
        for (at, byte) in damage {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        bytes.truncate(bytes.len().saturating_sub(cut % 7));
        if let Parsed::Question(question) = parse(&bytes) {
            let addresses = ["240.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()];
            question.labels();
            for answer in [question.answer(&addresses), question.no_such_name(), question.failure()].into_iter().flatten() {
                prop_assert_eq!(&answer[..2], &bytes[..2]);
                prop_assert!(question.by_udp(answer).is_some());
            }
            question.is_answered_by(&bytes, 1);
        }
    }
}
