//! Panics: each one is a defect, ends the connection, stream or task it happened in and nothing else, and is counted.
//!
//! What contains one is tokio, for tasks, and [`crate::runtime`], for connections; this counts all of them, whatever they
//! ended. Locks do not stay poisoned, and nothing that workers share is changed in steps that a panic could tear.

use std::panic::{PanicHookInfo, set_hook, take_hook};
use std::sync::atomic::{AtomicU64, Ordering};

static COUNT: AtomicU64 = AtomicU64::new(0);

/// Counts panics from now on, and logs where they happen: after the log was started, once in a process.
pub fn watch() {
    let before = take_hook();
    set_hook(Box::new(move |panic| {
        note(panic);
        before(panic);
    }));
}

fn note(panic: &PanicHookInfo<'_>) {
    COUNT.fetch_add(1, Ordering::Relaxed);
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    // The message may quote what a peer sent; standard error has it, with the backtrace, for whoever reports it.
    tracing::error!(place, "a defect of this proxy ended one connection, stream or task; please report it");
}

/// How many there were.
#[must_use]
pub fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use ::http::Request as H2Request;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::{LocalSet, spawn_local};
    use tokio::time::Instant;
    use weft_core::fault::FaultKind;
    use weft_core::message::ResponseHead;

    use super::*;
    use crate::http::{ExchangeEnd, Handler, HttpLimits, Interim, Refusal, Request, Response, serve_h2};
    use crate::io::Stream;
    use crate::runtime::drain::drain;

    /// Has a defect on one path.
    struct Fragile;

    impl Handler for Fragile {
        type Ticket = ();

        async fn handle(&self, request: Request, _: &Interim) -> (Response, ()) {
            assert_ne!(request.head.target, "/defect");
            (Response::new(ResponseHead::new(200)), ())
        }

        fn finished(&self, (): (), _: ExchangeEnd) -> Instant {
            Instant::now()
        }

        fn refused(&self, _: &Refusal) {}
        fn broken(&self, _: FaultKind) {}
        async fn tunnel(&self, (): (), _: Stream, _: Stream) {}
    }

    /// Many clients share an HTTP/2 connection between sidecars: a defect that one of them hits must not cut the others.
    #[tokio::test]
    async fn a_panic_ends_its_stream_and_not_the_connection() {
        watch();
        let before = count();
        let serving = async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            spawn_local(async move {
                let (socket, _) = listener.accept().await.unwrap();
                let (_trigger, signal) = drain();
                let signal = signal.here();
                serve_h2(Stream::plain(socket), &Rc::new(HttpLimits::default()), signal, &Rc::new(Fragile)).await
            });
            let (client, connection) = h2::client::handshake(TcpStream::connect(address).await.unwrap()).await.unwrap();
            spawn_local(async move { connection.await.unwrap_or_default() });
            let mut client = client.ready().await.unwrap();
            let mut ask = |path: &str| {
                let request = H2Request::builder().uri(format!("http://a{path}")).body(()).unwrap();
                let (answer, _) = client.send_request(request, true).unwrap();
                answer
            };
            let (defect, beside) = (ask("/defect"), ask("/"));
            assert!(defect.await.unwrap_err().is_reset(), "that stream is reset");
            assert_eq!(beside.await.unwrap().status(), 200, "the one beside it goes on");
            assert_eq!(ask("/later").await.unwrap().status(), 200, "and so do later ones");
        };
        LocalSet::new().run_until(tokio::time::timeout(std::time::Duration::from_secs(10), serving)).await.unwrap();
        assert!(count() > before, "it is counted");
    }
}
