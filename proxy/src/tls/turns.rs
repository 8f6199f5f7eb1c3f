//! Handshakes take turns: in each turn of a worker's loop one step of one mesh handshake is taken.
//!
//! A step (a key agreement, a signature, the check of a chain of certificates) takes as much processor time as several
//! requests. When hundreds of peers call at once, all of their steps would be taken in a row before the loop asks the
//! kernel for anything else, and every request being served would wait for them. Here each step waits in line; between two
//! of them the kernel is asked, and whatever is ready runs. The workload's own calls have a line of their own, so that
//! those who call it do not keep it from calling others; the two lines alternate.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::TlsError;

/// Handshakes that may wait in one line: as many as connections may wait to be accepted. At a millisecond for a turn, the
/// last of them still has its own within the time that a handshake may take.
const WAITING_MAX: usize = 4096;

/// Which line a handshake waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Somebody calls us.
    Accepting,
    /// We call somebody.
    Dialling,
}

/// The turns of one worker. Until [`Turns::run`] runs, and where it does not, nobody waits.
#[derive(Debug, Default)]
pub struct Turns {
    is_run: Cell<bool>,
    /// The step of this turn is taken, or promised to somebody.
    is_taken: Cell<bool>,
    runner: RefCell<Option<Waker>>,
    accepting: RefCell<VecDeque<Rc<Waiting>>>,
    dialling: RefCell<VecDeque<Rc<Waiting>>>,
    dialling_is_next: Cell<bool>,
}

/// One who waits; alone with the line when the handshake was given up.
#[derive(Debug, Default)]
struct Waiting {
    waker: RefCell<Option<Waker>>,
    is_called: Cell<bool>,
}

impl Turns {
    /// Gives the turns, for as long as the worker lives.
    pub async fn run(&self) -> std::convert::Infallible {
        self.is_run.set(true);
        loop {
            poll_fn(|context| self.taken(context)).await;
            // Comes back after the kernel was asked for events, and behind all whom they woke.
            tokio::task::yield_now().await;
            self.call_next();
        }
    }

    /// Takes the steps of a handshake as turns come. Cancelling gives up the place in the line.
    ///
    /// # Errors
    /// [`TlsError::Busy`] when the line is full, or `within` passed in it; otherwise what becomes of the handshake.
    pub(super) async fn pace<T>(
        &self,
        line: Line,
        within: Duration,
        mut handshake: Pin<&mut impl Future<Output = io::Result<T>>>,
    ) -> Result<T, TlsError> {
        let mut place = None;
        let steps = poll_fn(|context| {
            if self.may_step(line, &mut place, context)? {
                handshake.as_mut().poll(context).map_err(TlsError::from)
            } else {
                Poll::Pending
            }
        });
        match tokio::time::timeout(within, steps).await {
            Ok(done) => done,
            Err(_) if place.is_some() => Err(TlsError::Busy),
            Err(_) => Err(TlsError::Timeout(within)),
        }
    }

    fn may_step(&self, line: Line, place: &mut Option<Rc<Waiting>>, context: &Context<'_>) -> Result<bool, TlsError> {
        match place {
            Some(waiting) if !waiting.is_called.get() => {
                waiting.waker.replace(Some(context.waker().clone()));
                Ok(false)
            }
            Some(_) => {
                *place = None;
                Ok(true)
            }
            None if !self.is_run.get() => Ok(true),
            None if !self.is_taken.get() => {
                self.take();
                Ok(true)
            }
            None => {
                let mut all = self.line(line).borrow_mut();
                if all.len() >= WAITING_MAX {
                    return Err(TlsError::Busy);
                }
                let waiting = Rc::new(Waiting::default());
                waiting.waker.replace(Some(context.waker().clone()));
                all.push_back(Rc::clone(&waiting));
                *place = Some(waiting);
                Ok(false)
            }
        }
    }

    fn take(&self) {
        self.is_taken.set(true);
        if let Some(runner) = self.runner.take() {
            runner.wake();
        }
    }

    fn taken(&self, context: &Context<'_>) -> Poll<()> {
        if self.is_taken.get() {
            return Poll::Ready(());
        }
        self.runner.replace(Some(context.waker().clone()));
        Poll::Pending
    }

    /// A turn begins: whoever has waited longest may take its step, else whoever comes.
    fn call_next(&self) {
        let first = if self.dialling_is_next.get() { Line::Dialling } else { Line::Accepting };
        let second = if self.dialling_is_next.get() { Line::Accepting } else { Line::Dialling };
        let called = [first, second].into_iter().find(|line| self.call(*line));
        self.is_taken.set(called.is_some());
        if let Some(line) = called {
            self.dialling_is_next.set(line == Line::Accepting);
        }
    }

    /// Calls the first of a line, past those who gave up. False: nobody waits.
    fn call(&self, line: Line) -> bool {
        let mut all = self.line(line).borrow_mut();
        while let Some(waiting) = all.pop_front() {
            if Rc::strong_count(&waiting) > 1 {
                waiting.is_called.set(true);
                if let Some(waker) = waiting.waker.take() {
                    waker.wake();
                }
                return true;
            }
        }
        // What a storm needed is given back.
        all.shrink_to(0);
        false
    }

    const fn line(&self, line: Line) -> &RefCell<VecDeque<Rc<Waiting>>> {
        match line {
            Line::Accepting => &self.accepting,
            Line::Dialling => &self.dialling,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use futures_util::FutureExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixStream;
    use tokio::task::{LocalSet, spawn_local, yield_now};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// What happened, in order: a letter for who, a number for which.
    type Events = Rc<RefCell<Vec<(char, usize)>>>;

    /// A handshake of two steps, each after something has come from the peer.
    async fn handshake(turns: Rc<Turns>, line: Line, events: Events, name: (char, usize)) {
        let mut steps = 0;
        let steps = poll_fn(|context| {
            events.borrow_mut().push(name);
            steps += 1;
            if steps == 2 {
                return Poll::Ready(Ok(()));
            }
            context.waker().wake_by_ref();
            Poll::Pending
        });
        turns.pace(line, PATIENCE, std::pin::pin!(steps)).await.unwrap();
    }

    /// Says something to itself for ever; each time it hears it, the kernel was asked for events.
    async fn bystander(events: Events) {
        let (near, far) = UnixStream::pair().unwrap();
        let (mut hears, mut says) = (near, far);
        loop {
            let heard = spawn_local(async move {
                hears.read_u8().await.unwrap();
                hears
            });
            yield_now().await;
            says.write_u8(1).await.unwrap();
            hears = heard.await.unwrap();
            events.borrow_mut().push(('b', 0));
        }
    }

    fn paced() -> (Rc<Turns>, Events) {
        let turns = Rc::new(Turns::default());
        let runner = Rc::clone(&turns);
        spawn_local(async move { match runner.run().await {} });
        (turns, Events::default())
    }

    /// Goal: a storm of handshakes does not keep others waiting for more than one step each time, and all of it is served
    /// in the order in which it came.
    #[tokio::test]
    async fn between_two_steps_everybody_else_runs() {
        let storm = async {
            let (turns, events) = paced();
            spawn_local(bystander(Rc::clone(&events)));
            let ticks = Rc::clone(&events);
            spawn_local(async move {
                loop {
                    ticks.borrow_mut().push(('t', 0));
                    yield_now().await;
                }
            });
            yield_now().await;
            let all = (0..50).map(|number| {
                spawn_local(handshake(Rc::clone(&turns), Line::Accepting, Rc::clone(&events), ('h', number)))
            });
            let all: Vec<_> = all.collect();
            for one in all {
                one.await.unwrap();
            }
            events.take()
        };
        let events = tokio::time::timeout(PATIENCE, LocalSet::new().run_until(storm)).await.unwrap();
        let steps_between = |who: char| {
            let begun = events.iter().position(|event| event.0 == 'h').unwrap();
            let all: Vec<_> = events[begun..].split(|event| event.0 == who).collect();
            all.iter().map(|part| part.iter().filter(|event| event.0 == 'h').count()).max().unwrap()
        };
        assert_eq!(steps_between('t'), 1, "{events:?}");
        assert!(steps_between('b') <= 4, "it speaks and hears in turns of the loop: {events:?}");
        let steps: Vec<_> = events.iter().filter(|event| event.0 == 'h').map(|event| event.1).collect();
        let first: Vec<_> = (0..50).collect();
        assert_eq!(steps.len(), 100);
        assert_eq!(steps[..50], first, "who comes first is first");
        assert_eq!(steps[50..], first);
    }

    #[tokio::test]
    async fn who_calls_does_not_wait_behind_those_who_are_answered() {
        let storm = async {
            let (turns, events) = paced();
            yield_now().await;
            for number in 0..50 {
                spawn_local(handshake(Rc::clone(&turns), Line::Accepting, Rc::clone(&events), ('h', number)));
            }
            yield_now().await;
            handshake(Rc::clone(&turns), Line::Dialling, Rc::clone(&events), ('d', 0)).await;
            events.take()
        };
        let events = tokio::time::timeout(PATIENCE, LocalSet::new().run_until(storm)).await.unwrap();
        let others = events.iter().filter(|event| event.0 == 'h').count();
        assert!(others <= 6, "{events:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_is_bounded_and_whoever_waits_too_long_is_told() {
        let turns = Rc::new(Turns::default());
        // The turns are given no more after the first.
        let mut runner = Box::pin(turns.run());
        assert!((&mut runner).now_or_never().is_none());
        turns.take();
        let mut waiting: Vec<_> = (0..WAITING_MAX)
            .map(|_| {
                let turns = Rc::clone(&turns);
                Box::pin(async move {
                    turns.pace(Line::Accepting, PATIENCE, std::pin::pin!(pending::<io::Result<()>>())).await
                })
            })
            .collect();
        for one in &mut waiting {
            assert!(one.now_or_never().is_none());
        }
        let pace = |line| {
            let turns = &turns;
            async move { turns.pace(line, PATIENCE, std::pin::pin!(async { Ok(()) })).await }
        };
        assert!(matches!(pace(Line::Accepting).await, Err(TlsError::Busy)), "the line is full");
        let last = waiting.pop().unwrap();
        assert!(matches!(last.await, Err(TlsError::Busy)), "it waited too long");
        drop(waiting);
        // Who gave up is passed over.
        turns.call_next();
        assert!(!turns.is_taken.get() && turns.accepting.borrow().capacity() == 0);
        pace(Line::Dialling).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn without_turns_nobody_waits() {
        let turns = Turns::default();
        for _ in 0..3 {
            turns.pace(Line::Accepting, PATIENCE, std::pin::pin!(async { Ok(()) })).await.unwrap();
        }
        let silent = turns.pace(Line::Accepting, PATIENCE, std::pin::pin!(pending::<io::Result<()>>())).await;
        assert!(matches!(silent, Err(TlsError::Timeout(_))));
    }
}
