//! Our records against the library's, and against peers that break the rules.

use std::future::poll_fn;
use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::task::Poll;

use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConnection, ContentType, Error, PeerMisbehaved};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::super::acceptor::server_config;
use super::super::connector::client_config;
use super::super::scratch::SEAL_BYTES;
use super::super::stream::TlsStream;
use super::*;

const HANDSHAKE: ContentType = ContentType::Handshake;

fn name() -> ServerName<'static> {
    ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into())
}

/// Both ends of established connections.
struct Ends {
    pair: Pair,
    cart: Arc<Identity>,
    web: Arc<Identity>,
}

impl Ends {
    fn new() -> Self {
        let authority = Authority::new("a");
        let (cart, web) = (authority.identity(CART, &[CART], 600), authority.identity(WEB, &[WEB], 600));
        Self { pair: Pair::new(Arc::clone(&cart), Arc::clone(&web)), cart, web }
    }

    /// Server and client, both ours.
    async fn ours(&self) -> (TlsStream, TlsStream) {
        let (near, far) = sockets().await;
        let expected = SpiffeId::parse(CART).unwrap();
        let (server, client) = tokio::join!(
            self.pair.acceptor.accept(near, b""),
            self.pair.connector.connect(far, &expected, MeshAlpn::Tcp)
        );
        (server.unwrap().0, client.unwrap().0)
    }

    async fn rustls_server(&self) -> (tokio_rustls::server::TlsStream<TcpStream>, TlsStream) {
        let (near, far) = sockets().await;
        let acceptor = TlsAcceptor::from(Arc::new(server_config(&self.cart, Clock::start()).unwrap()));
        let expected = SpiffeId::parse(CART).unwrap();
        let connect = self.pair.connector.connect(far, &expected, MeshAlpn::Tcp);
        let (server, client) = tokio::join!(acceptor.accept(near), connect);
        (server.unwrap(), client.unwrap().0)
    }

    async fn rustls_client(&self) -> (TlsStream, tokio_rustls::client::TlsStream<TcpStream>) {
        let (near, far) = sockets().await;
        let connector = TlsConnector::from(self.client_config());
        let (server, client) = tokio::join!(self.pair.acceptor.accept(near, b""), connector.connect(name(), far));
        (server.unwrap().0, client.unwrap())
    }

    fn client_config(&self) -> Arc<rustls::ClientConfig> {
        let expected = SpiffeId::parse(CART).unwrap();
        Arc::new(client_config(&self.web, &expected, MeshAlpn::Tcp).unwrap())
    }
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

/// Bytes of which none is like its neighbours.
fn pattern(count: usize) -> Vec<u8> {
    (0_u32..).map(|number| (number % 251) as u8).take(count).collect()
}

/// Writes in pieces of several sizes, and then says that this was all.
async fn say(stream: &mut (impl AsyncWrite + Unpin), all: &[u8]) {
    let mut rest = all;
    for size in [1, 300, 5000, 1 << 14, (1 << 14) + 1, 100_000].into_iter().cycle() {
        let (piece, behind) = rest.split_at(size.min(rest.len()));
        // In two slices, so that records are gathered.
        let (one, other) = piece.split_at(piece.len() / 3);
        let count = stream.write_vectored(&[IoSlice::new(one), IoSlice::new(other)]).await.unwrap();
        stream.write_all(&piece[count..]).await.unwrap();
        rest = behind;
        if rest.is_empty() {
            break;
        }
    }
    stream.shutdown().await.unwrap();
}

async fn hear(stream: &mut (impl AsyncRead + Unpin), at_once: usize) -> Vec<u8> {
    let (mut all, mut some) = (Vec::new(), vec![0; at_once]);
    loop {
        match stream.read(&mut some).await.unwrap() {
            0 => return all,
            count => all.extend_from_slice(&some[..count]),
        }
    }
}

/// Everything both ways at once, each way ended by itself.
async fn talk(one: impl AsyncRead + AsyncWrite + Unpin, other: impl AsyncRead + AsyncWrite + Unpin, at_once: usize) {
    let (there, back) = (pattern(3 << 20), pattern(1 << 20));
    let both = async {
        let (mut reads, mut writes) = tokio::io::split(one);
        let (mut others_reads, mut others_writes) = tokio::io::split(other);
        tokio::join!(
            say(&mut writes, &there),
            hear(&mut others_reads, at_once),
            say(&mut others_writes, &back),
            hear(&mut reads, at_once),
        )
    };
    let ((), got_there, (), got_back) = tokio::time::timeout(12 * PATIENCE, both).await.unwrap();
    assert!(got_there == there && got_back == back);
}

#[tokio::test]
async fn all_that_is_said_is_heard_in_order() {
    let ends = Ends::new();
    for at_once in [700, 20_000, 256 << 10] {
        let (server, client) = ends.ours().await;
        talk(server, client, at_once).await;
        let (server, client) = ends.rustls_server().await;
        talk(server, client, at_once).await;
        let (server, client) = ends.rustls_client().await;
        talk(client, server, at_once).await;
    }
}

#[tokio::test]
async fn keys_are_renewed_by_either_side() {
    let ends = Ends::new();
    let (mut server, client) = ends.rustls_client().await;
    server.session().limit_keys(3);
    talk(server, client, 20_000).await;

    let (mut server, mut client) = ends.rustls_server().await;
    for _ in 0..100 {
        server.get_mut().1.refresh_traffic_keys().unwrap();
        server.write_all(b"ping").await.unwrap();
        let mut got = [0; 4];
        client.read_exact(&mut got).await.unwrap();
        // The answer comes under new keys of ours.
        client.write_all(b"pong").await.unwrap();
        server.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"pong");
    }
}

/// What comes right behind the handshake is the stream's, whether it comes at once or byte by byte.
#[tokio::test]
async fn data_behind_the_handshake_is_not_lost() {
    let ends = Ends::new();
    for bytewise in [false, true] {
        let (near, far) = sockets().await;
        let mut client = ClientConnection::new(ends.client_config(), name()).unwrap();
        let far = far.into_std().unwrap();
        far.set_nonblocking(false).unwrap();
        far.set_nodelay(true).unwrap();
        let talking = tokio::task::spawn_blocking(move || {
            let send = |client: &mut ClientConnection| {
                let mut flight = Vec::new();
                while client.wants_write() {
                    client.write_tls(&mut flight).unwrap();
                }
                let mut far = &far;
                for piece in flight.chunks(if bytewise { 1 } else { flight.len() }) {
                    far.write_all(piece).unwrap();
                }
            };
            send(&mut client);
            while client.is_handshaking() {
                client.read_tls(&mut &far).unwrap();
                client.process_new_packets().unwrap();
            }
            client.writer().write_all(b"behind it").unwrap();
            send(&mut client);
            far
        });
        let accepted = tokio::time::timeout(12 * PATIENCE, ends.pair.acceptor.accept(near, b"")).await.unwrap();
        let (mut server, _) = accepted.unwrap();
        let mut got = [0; 9];
        server.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"behind it");
        drop(talking.await.unwrap());
    }
}

#[tokio::test]
async fn an_end_without_a_word_is_an_error_once() {
    let (mut server, mut client) = Ends::new().ours().await;
    // Closed with the ticket unread, it would be a reset.
    server.write_all(b"s").await.unwrap();
    client.read_u8().await.unwrap();
    drop(client);
    assert_eq!(server.read(&mut [0; 8]).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
}

/// Sends what `client` would not send by itself, then reads on both sides: what each learns.
async fn broken(records: impl FnOnce(&mut TlsStream) -> Vec<u8>) -> (Error, Error) {
    let (mut server, mut client) = Ends::new().ours().await;
    // The ticket is behind us then.
    server.write_all(b"s").await.unwrap();
    client.read_u8().await.unwrap();
    let records = records(&mut client);
    client.write_raw(&records).await;
    let learns = async |stream: &mut TlsStream| {
        let error = tokio::time::timeout(PATIENCE, stream.read(&mut [0; 64])).await.unwrap().unwrap_err();
        error.downcast::<Error>().unwrap()
    };
    (learns(&mut server).await, learns(&mut client).await)
}

fn sealed(client: &mut TlsStream, kind: ContentType, message: &[u8]) -> Vec<u8> {
    let mut room = vec![0; 20_000];
    let count = client.session().seal_message(kind, message, &mut room);
    room[..count].to_vec()
}

#[tokio::test]
async fn who_breaks_the_rules_is_told_and_heard_no_more() {
    let told = |alert| Error::AlertReceived(alert);
    let check = async |expected: Error, alert, records: &dyn Fn(&mut TlsStream) -> Vec<u8>| {
        assert_eq!(broken(|client| records(client)).await, (expected, told(alert)));
    };
    check(Error::DecryptError, AlertDescription::BadRecordMac, &|client| {
        let mut record = sealed(client, ContentType::ApplicationData, b"data");
        *record.last_mut().unwrap() ^= 1;
        record
    })
    .await;
    // One record left out.
    check(Error::DecryptError, AlertDescription::BadRecordMac, &|client| {
        drop(sealed(client, ContentType::ApplicationData, b"data"));
        sealed(client, ContentType::ApplicationData, b"data")
    })
    .await;
    check(Error::DecryptError, AlertDescription::BadRecordMac, &|_| vec![23, 3, 3, 0, 3, 1, 2, 3]).await;
    check(Error::PeerSentOversizedRecord, AlertDescription::RecordOverflow, &|_| vec![23, 3, 3, 0x48, 0]).await;
    check(PeerMisbehaved::TooManyEmptyFragments.into(), AlertDescription::UnexpectedMessage, &|client| {
        (0..33).flat_map(|_| sealed(client, ContentType::ApplicationData, b"")).collect()
    })
    .await;
    check(
        PeerMisbehaved::MessageInterleavedWithHandshakeMessage.into(),
        AlertDescription::UnexpectedMessage,
        &|client| [sealed(client, HANDSHAKE, &[24, 0]), sealed(client, ContentType::ApplicationData, b"data")].concat(),
    )
    .await;
    check(PeerMisbehaved::KeyEpochWithPendingFragment.into(), AlertDescription::UnexpectedMessage, &|client| {
        sealed(client, HANDSHAKE, &[24, 0, 0, 1, 0, 24])
    })
    .await;
    check(rustls::InvalidMessage::InvalidKeyUpdate.into(), AlertDescription::IllegalParameter, &|client| {
        sealed(client, HANDSHAKE, &[24, 0, 0, 1, 2])
    })
    .await;
    check(rustls::InvalidMessage::HandshakePayloadTooLarge.into(), AlertDescription::DecodeError, &|client| {
        sealed(client, HANDSHAKE, &[4, 1, 0, 0])
    })
    .await;
    check(PeerMisbehaved::IllegalMiddleboxChangeCipherSpec.into(), AlertDescription::UnexpectedMessage, &|client| {
        sealed(client, ContentType::ChangeCipherSpec, &[1])
    })
    .await;
}

#[tokio::test]
async fn a_client_gives_no_tickets_and_nothing_goes_unprotected() {
    let (error, told) = broken(|client| sealed(client, HANDSHAKE, &[4, 0, 0, 0])).await;
    assert!(matches!(error, Error::InappropriateHandshakeMessage { .. }), "{error}");
    assert_eq!(told, Error::AlertReceived(AlertDescription::UnexpectedMessage));
    let (error, told) = broken(|_| vec![21, 3, 3, 0, 2, 1, 0]).await;
    assert!(matches!(error, Error::InappropriateMessage { .. }), "{error}");
    assert_eq!(told, Error::AlertReceived(AlertDescription::UnexpectedMessage));
}

/// New keys without data between them cost the receiver, and the sender nearly nothing.
#[tokio::test]
async fn keys_renewed_without_end_are_refused() {
    let (mut server, mut client) = Ends::new().ours().await;
    server.write_all(b"s").await.unwrap();
    client.read_u8().await.unwrap();
    client.session().limit_keys(1);
    let mut room = vec![0; 40_000];
    let mut updates = Vec::new();
    for _ in 0..33 {
        let (taken, count) = client.session().seal(&[], &mut room).unwrap();
        assert_eq!(taken, 0);
        updates.extend_from_slice(&room[..count]);
    }
    client.write_raw(&updates).await;
    let error = server.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.downcast::<Error>().unwrap(), PeerMisbehaved::TooManyKeyUpdateRequests.into());
}

#[tokio::test]
async fn a_message_may_come_in_pieces() {
    let (mut server, mut client) = Ends::new().ours().await;
    let mut records: Vec<u8> =
        [&[24, 0][..], &[0, 1], &[0]].iter().flat_map(|piece| sealed(&mut client, HANDSHAKE, piece)).collect();
    client.session().change_keys().unwrap();
    records.extend(sealed(&mut client, ContentType::ApplicationData, b"data"));
    client.write_raw(&records).await;
    let mut got = [0; 4];
    server.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"data");
}

/// Whoever waits with nothing on the way holds no buffer.
#[tokio::test]
async fn a_connection_that_waits_holds_nothing() {
    let (mut server, mut client) = Ends::new().ours().await;
    client.write_all(&[7; 5000]).await.unwrap();
    let mut got = [0; 10];
    server.read_exact(&mut got).await.unwrap();
    assert!(!server.is_silent() && !server.is_drained());
    server.read_exact(&mut [0; 4990]).await.unwrap();
    assert!(server.is_silent() && server.is_drained());
    assert_eq!((server.held(), client.held()), (0, 0));
}

#[tokio::test]
async fn what_the_socket_does_not_take_is_bounded() {
    let (mut server, mut client) = Ends::new().ours().await;
    let (bytes, mut said) = (pattern(1 << 20), 0);
    // However often it is asked: not until the runtime thinks that others should have their turn.
    tokio::task::unconstrained(poll_fn(|cx| {
        while let Poll::Ready(count) = Pin::new(&mut client).poll_write(cx, &bytes) {
            said += count.unwrap();
        }
        Poll::Ready(())
    }))
    .await;
    assert!((1..=SEAL_BYTES).contains(&client.held()), "{}", client.held());
    let (closed, heard) = tokio::join!(client.shutdown(), hear(&mut server, 256 << 10));
    closed.unwrap();
    assert_eq!(heard.len(), said);
}
