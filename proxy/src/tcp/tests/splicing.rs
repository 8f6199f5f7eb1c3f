//! Bulk between two plain sockets.

use std::rc::Rc;

use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::{sleep, timeout};

use super::*;
use crate::identity::sha256;

const PATIENCE: Duration = Duration::from_secs(60);

/// Enough to be moved by the kernel after its beginning was copied.
const BULK: usize = 3 << 20;

/// Bytes of which no piece is like another.
fn varied(seed: u32) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..BULK).map(|_| next()).collect()
}

/// A relay between two plain sockets that runs until the test is over.
struct Line {
    client: TcpStream,
    server: TcpStream,
    relay: JoinHandle<RelayEnd>,
}

impl Line {
    async fn through(reserve: &Rc<Reserve>) -> Self {
        let ((client, downstream), (server, upstream)) = tokio::join!(pair(), pair());
        let reserve = Rc::clone(reserve);
        let relay = spawn_local(async move { relay(&reserve, downstream, upstream, &Moved::default()).await });
        Self { client, server, relay }
    }

    /// Sends it from the client and has it arrive.
    async fn carry(&mut self, bytes: &[u8]) {
        let mut got = vec![0; bytes.len()];
        let (sent, received) = tokio::join!(self.client.write_all(bytes), self.server.read_exact(&mut got));
        sent.unwrap();
        received.unwrap();
        assert_eq!(sha256(&got), sha256(bytes));
    }

    /// Sends what the server does not read, until nobody takes any more of it.
    async fn stall(&mut self, reserve: &Reserve) {
        while held(reserve) == 0 {
            self.client.writable().await.unwrap();
            self.client.try_write(&[7; 65_536]).unwrap_or_default();
            tokio::task::yield_now().await;
        }
    }
}

fn held(reserve: &Reserve) -> usize {
    reserve.pipes().open() - reserve.pipes().idle()
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(LocalSet::new().run_until(async { timeout(PATIENCE, test).await.unwrap() }));
}

async fn both_ways(reserve: Reserve) -> Rc<Reserve> {
    let reserve = Rc::new(reserve);
    let line = Line::through(&reserve).await;
    let (up, down) = (varied(1), varied(2));
    let (mut client, mut server) = (line.client.into_split(), line.server.into_split());
    let (mut said, mut heard) = (Vec::new(), Vec::new());
    tokio::join!(
        async {
            client.1.write_all(&up).await.unwrap();
            client.1.shutdown().await.unwrap();
        },
        async {
            server.1.write_all(&down).await.unwrap();
            server.1.shutdown().await.unwrap();
        },
        async { assert_eq!(server.0.read_to_end(&mut heard).await.unwrap(), BULK) },
        async { assert_eq!(client.0.read_to_end(&mut said).await.unwrap(), BULK) },
    );
    assert_eq!((sha256(&heard), sha256(&said)), (sha256(&up), sha256(&down)));
    assert_eq!(line.relay.await.unwrap(), RelayEnd { up: BULK as u64, down: BULK as u64, fault: None });
    reserve
}

#[test]
fn both_ways_at_once() {
    run(async {
        let reserve = both_ways(Reserve::default()).await;
        assert!(reserve.pipes().open() > 0, "nothing was spliced");
        assert_eq!(held(&reserve), 0);
    });
}

#[test]
fn without_pipes_it_is_copied() {
    run(async {
        let reserve = both_ways(Reserve::with_pipes(0)).await;
        assert_eq!(reserve.pipes().open(), 0);
    });
}

#[test]
fn while_others_have_all_pipes_it_is_copied() {
    run(async {
        let reserve = Rc::new(Reserve::with_pipes(1));
        let (mut slow, mut other) = (Line::through(&reserve).await, Line::through(&reserve).await);
        slow.stall(&reserve).await;
        other.carry(&varied(3)).await;
        assert_eq!(held(&reserve), 1);
    });
}

#[test]
fn a_relay_that_waits_holds_no_pipe() {
    run(async {
        let reserve = Rc::new(Reserve::default());
        let mut lines = Vec::new();
        for seed in 0..20 {
            let mut line = Line::through(&reserve).await;
            line.carry(&varied(seed)).await;
            lines.push(line);
        }
        while held(&reserve) > 0 {
            sleep(Duration::from_millis(1)).await;
        }
        assert!((1..20).contains(&reserve.pipes().open()), "{}", reserve.pipes().open());
        // And they go on.
        for line in &mut lines {
            line.carry(b"more").await;
        }
    });
}

#[test]
fn a_pipe_with_bytes_is_closed_with_its_relay() {
    run(async {
        let reserve = Rc::new(Reserve::default());
        let mut line = Line::through(&reserve).await;
        line.stall(&reserve).await;
        line.relay.abort();
        assert!(line.relay.await.unwrap_err().is_cancelled());
        assert_eq!((reserve.pipes().open(), held(&reserve)), (reserve.pipes().idle(), 0));
        let mut next = Line::through(&reserve).await;
        next.carry(&varied(4)).await;
    });
}

#[test]
fn a_pipe_with_bytes_is_closed_when_its_reader_breaks() {
    run(async {
        let reserve = Rc::new(Reserve::default());
        let mut line = Line::through(&reserve).await;
        line.stall(&reserve).await;
        crate::net::reset(line.server);
        assert_eq!(line.relay.await.unwrap().fault, Some(FaultKind::UpstreamReset));
        assert_eq!(held(&reserve), 0);
    });
}

#[test]
fn a_reset_after_bulk_is_passed_on() {
    run(async {
        let mut line = Line::through(&Rc::default()).await;
        line.carry(&varied(5)).await;
        crate::net::reset(line.client);
        assert_eq!(line.relay.await.unwrap().fault, Some(FaultKind::DownstreamReset));
        assert_eq!(line.server.read(&mut [0; 8]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_half_closed_line_carries_bulk_the_other_way() {
    run(async {
        let mut line = Line::through(&Rc::default()).await;
        line.carry(&varied(6)).await;
        line.client.shutdown().await.unwrap();
        assert_eq!(line.server.read(&mut [0; 8]).await.unwrap(), 0);
        let (answer, mut got) = (varied(7), Vec::new());
        let answering = async {
            line.server.write_all(&answer).await.unwrap();
            line.server.shutdown().await.unwrap();
        };
        let ((), read) = tokio::join!(answering, line.client.read_to_end(&mut got));
        assert_eq!((read.unwrap(), sha256(&got)), (BULK, sha256(&answer)));
        assert_eq!(line.relay.await.unwrap().fault, None);
    });
}

/// A pipe takes nothing from where urgent data begins.
#[test]
fn urgent_data_does_not_stop_bulk() {
    run(async {
        let reserve = Rc::new(Reserve::default());
        let mut line = Line::through(&reserve).await;
        line.carry(&varied(8)).await;
        line.client.writable().await.unwrap();
        assert_eq!(socket2::SockRef::from(&line.client).send_out_of_band(b"!").unwrap(), 1);
        line.carry(&varied(9)).await;
    });
}

/// The last piece of bulk, and single messages after it, do not wait for more.
#[test]
fn messages_after_bulk_arrive_at_once() {
    run(async {
        let mut line = Line::through(&Rc::default()).await;
        line.carry(&varied(10)).await;
        for seed in 0..100 {
            line.carry(&[seed; 100]).await;
        }
    });
}
