//! Answers the control plane's questions on a stream of its own, so that a dump never delays discovery.
//!
//! An answer is sent in chunks as the asker grants them; a question that is cancelled or whose asker is slow holds only
//! its one document. The number of open questions is bounded.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use weft_proto::v1::diagnostics_client::DiagnosticsClient;
use weft_proto::v1::{Answer, Attendance, Chunk, Query, Question, answer, query, question};

use crate::clock::Clock;
use crate::doors::Process;
use crate::identity::{ControlPlane, Identity, IdentityWatch};

/// Bytes in one chunk, as the API says.
const CHUNK_BYTES: usize = 64 << 10;

/// Questions answered at once; operators are few.
const QUESTIONS_MAX: usize = 16;

/// Bounds of the back-off between attempts to attend.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(15);

/// Attends for as long as the process lives; reconnects with jittered back-off. Cancelling ends the stream.
pub async fn attend(
    control_plane: ControlPlane,
    mut identity: IdentityWatch,
    instance_id: Arc<str>,
    process: Process,
    clock: Clock,
) -> Infallible {
    let mut backoff = BACKOFF_MIN;
    loop {
        let present = identity.wait_for(Option::is_some).await.ok().and_then(|held| held.clone());
        // Nobody will have one any more: the process ends.
        let Some(present) = present else { return std::future::pending().await };
        let begun = clock.now();
        if let Err(error) = attend_once(&control_plane, &present, &instance_id, &process).await {
            tracing::debug!(%error, "diagnostics stream ended");
        }
        // A stream that stood for a while was no failure.
        if clock.now().since(begun) > BACKOFF_MAX {
            backoff = BACKOFF_MIN;
        }
        tokio::time::sleep(backoff.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

async fn attend_once(
    control_plane: &ControlPlane,
    identity: &Identity,
    instance_id: &str,
    process: &Process,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let channel = control_plane.dial(identity).await?;
    converse(channel, instance_id, process).await?;
    Ok(())
}

async fn converse(channel: Channel, instance_id: &str, process: &Process) -> Result<(), tonic::Status> {
    // One place: a chunk waits until the transport took the one before.
    let (send, outgoing) = mpsc::channel(1);
    let attendance = Attendance { instance_id: instance_id.to_owned(), build: crate::VERSION.to_owned() };
    let hello = Answer { message: Some(answer::Message::Attendance(attendance)) };
    if send.send(hello).await.is_err() {
        return Ok(());
    }
    let mut questions = DiagnosticsClient::new(channel).attend(ReceiverStream::new(outgoing)).await?.into_inner();
    let mut open = OpenQuestions::default();
    loop {
        tokio::select! {
            question = questions.next() => match question {
                Some(question) => open.handle(question?, process),
                None => return Ok(()),
            },
            // Cancelling `reserve` loses nothing: no chunk has been taken yet.
            permit = send.reserve(), if open.sendable() => match permit {
                Ok(permit) => if let Some(chunk) = open.next_chunk() {
                    permit.send(Answer { message: Some(answer::Message::Chunk(chunk)) });
                },
                Err(_) => return Ok(()),
            },
        }
    }
}

/// Questions that still have something to send.
#[derive(Debug, Default)]
struct OpenQuestions {
    by_id: HashMap<u64, OpenQuestion>,
}

#[derive(Debug)]
struct OpenQuestion {
    rest: Bytes,
    credit: u32,
    error: String,
}

impl OpenQuestions {
    fn handle(&mut self, question: Question, process: &Process) {
        match question.message {
            Some(question::Message::Query(query)) => self.open(question.id, &query, process),
            Some(question::Message::Grant(grant)) => {
                if let Some(open) = self.by_id.get_mut(&question.id) {
                    open.credit = open.credit.saturating_add(grant.chunks);
                }
            }
            Some(question::Message::Cancel(_)) => drop(self.by_id.remove(&question.id)),
            None => {}
        }
    }

    fn open(&mut self, id: u64, query: &Query, process: &Process) {
        let (rest, error) = if self.by_id.len() >= QUESTIONS_MAX {
            (Bytes::new(), "this proxy is answering too many questions already".to_owned())
        } else {
            match answer_to(query, process) {
                Ok(document) => (document, String::new()),
                Err(error) => (Bytes::new(), error),
            }
        };
        // A refusal goes out even without credit, or the asker would wait for ever.
        let credit = if error.is_empty() { query.initial_chunks } else { query.initial_chunks.max(1) };
        self.by_id.insert(id, OpenQuestion { rest, credit, error });
    }

    fn sendable(&self) -> bool {
        self.by_id.values().any(|open| open.credit > 0)
    }

    fn next_chunk(&mut self) -> Option<Chunk> {
        let id = *self.by_id.iter().find(|(_, open)| open.credit > 0)?.0;
        let open = self.by_id.get_mut(&id)?;
        open.credit -= 1;
        let data = open.rest.split_to(open.rest.len().min(CHUNK_BYTES));
        let last = open.rest.is_empty();
        let error = std::mem::take(&mut open.error);
        if last {
            self.by_id.remove(&id);
        }
        Some(Chunk { question_id: id, data: data.to_vec(), last, error })
    }
}

fn answer_to(query: &Query, process: &Process) -> Result<Bytes, String> {
    match &query.query {
        Some(query::Query::ConfigDump(_)) => {
            serde_json::to_vec_pretty(&(process.dump)()).map(Bytes::from).map_err(|error| error.to_string())
        }
        Some(query::Query::LogLevel(level)) => {
            let changed = match (level.directive.as_str(), level.for_seconds) {
                ("", _) => Ok(()),
                (directive, 0) => process.log.set(directive),
                (directive, seconds) => process.log.set_for(directive, Duration::from_secs(seconds.into())),
            };
            changed.and_then(|()| process.log.current()).map(Bytes::from).map_err(|error| error.to_string())
        }
        None => Err("this proxy does not know that question; is it older than the control plane?".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open_with(document: &'static [u8], credit: u32) -> OpenQuestions {
        let question = OpenQuestion { rest: Bytes::from_static(document), credit, error: String::new() };
        OpenQuestions { by_id: HashMap::from([(7, question)]) }
    }

    #[test]
    fn chunks_wait_for_credit_and_end_once() {
        static DOCUMENT: [u8; CHUNK_BYTES + 1] = [b'x'; CHUNK_BYTES + 1];
        let mut open = open_with(&DOCUMENT, 1);
        let first = open.next_chunk().unwrap();
        assert_eq!((first.data.len(), first.last), (CHUNK_BYTES, false));
        assert!(!open.sendable());
        open.by_id.get_mut(&7).unwrap().credit = 5;
        let second = open.next_chunk().unwrap();
        assert_eq!((second.data.len(), second.last), (1, true));
        assert!(!open.sendable() && open.next_chunk().is_none());
    }

    #[test]
    fn an_empty_document_is_one_last_chunk() {
        let chunk = open_with(b"", 1).next_chunk().unwrap();
        assert!(chunk.last && chunk.data.is_empty());
    }
}
