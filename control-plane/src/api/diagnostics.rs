//! `Diagnostics`: operators ask, proxies answer on streams of their own.
//!
//! The control plane only passes on: a question gets a number, the proxy's chunks go to whoever asked, and credits flow
//! back as the operator reads, so nothing piles up here. An operator who leaves cancels the question.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming, async_trait};
use weft_core::identity::spiffe::SpiffeId;
use weft_proto::v1::diagnostics_server::Diagnostics;
use weft_proto::v1::{
    Answer, AskChunk, AskRequest, AttendingProxy, Cancel, Chunk, Grant, ProxiesRequest, ProxiesResponse, Question,
    answer, question,
};

use super::peer::Peer;
use crate::push::proxies::{Proxies, cut};
use crate::registry::handle::Registry;
use crate::shutdown::Shutdown;

/// Chunks under way for one question: a proxy may be this far ahead of its operator.
const CREDIT: u32 = 4;

/// Chunks that wait for the asker; more than were granted means a proxy that does not keep to the rules.
const WAITING_MAX: usize = 8;

/// A proxy must answer each step within this.
const STEP_TIMEOUT: Duration = Duration::from_secs(15);

type Questions = Arc<Mutex<HashMap<u64, mpsc::Sender<Chunk>>>>;

/// The service.
#[derive(Clone, Debug)]
pub struct DiagnosticsService {
    registry: Registry,
    proxies: Proxies,
    attending: Arc<Mutex<HashMap<String, Attendee>>>,
    numbers: Arc<AtomicU64>,
    shutdown: Shutdown,
}

#[derive(Clone, Debug)]
struct Attendee {
    id: SpiffeId,
    build: String,
    number: u64,
    questions: mpsc::Sender<Result<Question, Status>>,
    open: Questions,
}

impl DiagnosticsService {
    /// Over the registry and the list of connected proxies.
    #[must_use]
    pub fn new(registry: Registry, proxies: Proxies, shutdown: Shutdown) -> Self {
        Self { registry, proxies, attending: Arc::default(), numbers: Arc::default(), shutdown }
    }

    fn attendees(&self) -> std::sync::MutexGuard<'_, HashMap<String, Attendee>> {
        self.attending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a name for a stream. An instance that somebody else registered cannot be spoken for; one that nobody
    /// registered (a gateway) can, but not under a name that another identity attends with.
    fn take_seat(&self, name: &str, instance_id: &str, attendee: Attendee) -> Result<(), Status> {
        let caller = attendee.id.clone();
        let owned = self
            .registry
            .read(|index| index.instance(caller.namespace(), instance_id).map(|instance| instance.belongs_to(&caller)));
        let mut attending = self.attendees();
        // Who registered the name throws out who did not.
        let free = owned == Some(true) || attending.get(name).is_none_or(|other| other.id == caller);
        if owned == Some(false) || !free {
            tracing::warn!(%caller, name, "refused: attends as another's instance");
            return Err(Status::permission_denied(format!("instance {instance_id} belongs to another identity")));
        }
        if let Some(former) = attending.insert(name.to_owned(), attendee).filter(|former| former.id != caller) {
            let status = Status::permission_denied("the instance of this name belongs to another identity");
            // One that does not read finds out by its stream's end.
            former.questions.try_send(Err(status)).unwrap_or_default();
        }
        Ok(())
    }
}

#[async_trait]
impl Diagnostics for DiagnosticsService {
    type AttendStream = Pin<Box<dyn Stream<Item = Result<Question, Status>> + Send>>;
    type AskStream = Pin<Box<dyn Stream<Item = Result<AskChunk, Status>> + Send>>;

    async fn attend(&self, request: Request<Streaming<Answer>>) -> Result<Response<Self::AttendStream>, Status> {
        let caller = Peer::of(&request)?;
        let mut answers = request.into_inner();
        let (send, receive) = mpsc::channel(16);
        let service = self.clone();
        tokio::spawn(async move {
            let attended = service.serve(caller, &mut answers, send.clone());
            let outcome = tokio::select! {
                outcome = attended => outcome,
                () = service.shutdown.requested() => Err(Status::unavailable("control plane is stopping")),
            };
            if let Err(status) = outcome {
                // The proxy may be gone already.
                send.send(Err(status)).await.unwrap_or_default();
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    async fn ask(&self, request: Request<AskRequest>) -> Result<Response<Self::AskStream>, Status> {
        Peer::operator(&request)?;
        let AskRequest { proxy, query } = request.into_inner();
        let mut query = query.ok_or_else(|| Status::invalid_argument("query: is missing"))?;
        query.initial_chunks = CREDIT;
        let attendee = self.attendees().get(&proxy).cloned();
        let attendee = attendee.ok_or_else(|| {
            Status::not_found(format!("no proxy {proxy:?} attends; `weft proxies` lists those that do"))
        })?;
        let id = self.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        let (deliver, chunks) = mpsc::channel(WAITING_MAX);
        attendee.open.lock().unwrap_or_else(PoisonError::into_inner).insert(id, deliver);
        let question = Question { id, message: Some(question::Message::Query(query)) };
        // A proxy that does not read must not hold its asker.
        if attendee.questions.try_send(Ok(question)).is_err() {
            attendee.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            return Err(Status::unavailable(format!("proxy {proxy} has just left or does not read its questions")));
        }
        let (send, receive) = mpsc::channel(1);
        tokio::spawn(pass_on(id, attendee, chunks, send));
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    async fn proxies(&self, request: Request<ProxiesRequest>) -> Result<Response<ProxiesResponse>, Status> {
        Peer::operator(&request)?;
        let connected = self.proxies.all();
        let mut proxies: Vec<_> = self
            .attendees()
            .iter()
            .map(|(name, attendee)| {
                let stream = connected.iter().find(|stream| {
                    stream.id == attendee.id && format!("{}/{}", stream.id.namespace(), stream.instance_id) == *name
                });
                AttendingProxy {
                    proxy: name.clone(),
                    spiffe_id: attendee.id.to_string(),
                    build: attendee.build.clone(),
                    acked_revision: stream.map_or(0, |stream| stream.acked_revision),
                    rejected: stream.map_or(0, |stream| u32::try_from(stream.rejected.len()).unwrap_or(u32::MAX)),
                }
            })
            .collect();
        proxies.sort_by(|a, b| a.proxy.cmp(&b.proxy));
        Ok(Response::new(ProxiesResponse { proxies }))
    }
}

impl DiagnosticsService {
    async fn serve(
        &self,
        caller: SpiffeId,
        answers: &mut Streaming<Answer>,
        questions: mpsc::Sender<Result<Question, Status>>,
    ) -> Result<(), Status> {
        let first = tokio::time::timeout(STEP_TIMEOUT, answers.next()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no Attendance"))?;
        let message = first.ok_or_else(|| Status::cancelled("left"))??.message;
        let Some(answer::Message::Attendance(attendance)) = message else {
            return Err(Status::failed_precondition("the first message must be Attendance"));
        };
        if !weft_core::model::decode::is_dns_label(&attendance.instance_id) {
            return Err(Status::invalid_argument("Attendance.instance_id must be a DNS label"));
        }
        let name = format!("{}/{}", caller.namespace(), attendance.instance_id);
        let number = self.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        let open = Questions::default();
        let attendee =
            Attendee { id: caller, build: cut(&attendance.build), number, questions, open: Arc::clone(&open) };
        self.take_seat(&name, &attendance.instance_id, attendee)?;
        let ended = listen(answers, &open).await;
        let mut attending = self.attendees();
        // A proxy that came back has taken the name over.
        if attending.get(&name).is_some_and(|attendee| attendee.number == number) {
            attending.remove(&name);
        }
        open.lock().unwrap_or_else(PoisonError::into_inner).clear();
        ended
    }
}

async fn listen(answers: &mut Streaming<Answer>, open: &Questions) -> Result<(), Status> {
    while let Some(answer) = answers.next().await {
        let Some(answer::Message::Chunk(chunk)) = answer?.message else { continue };
        let (id, last) = (chunk.question_id, chunk.last);
        let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
        // An asker that has left, or a proxy that sends more than it was granted: the question is over.
        let delivered = open.get(&id).is_some_and(|asker| asker.try_send(chunk).is_ok());
        if last || !delivered {
            open.remove(&id);
        }
    }
    Ok(())
}

/// Hands chunks to the operator and credits to the proxy; cancels when the operator leaves.
async fn pass_on(
    id: u64,
    attendee: Attendee,
    mut chunks: mpsc::Receiver<Chunk>,
    operator: mpsc::Sender<Result<AskChunk, Status>>,
) {
    let say = |message| Ok(Question { id, message: Some(message) });
    loop {
        let next = tokio::select! {
            next = tokio::time::timeout(STEP_TIMEOUT, chunks.recv()) => next,
            () = operator.closed() => break,
        };
        let (told, last) = match next {
            Ok(Some(chunk)) if chunk.error.is_empty() => (Ok(AskChunk { data: chunk.data }), chunk.last),
            Ok(Some(chunk)) => (Err(Status::failed_precondition(chunk.error)), true),
            Ok(None) => (Err(Status::unavailable("the proxy left before its answer was whole")), true),
            Err(_) => (Err(Status::deadline_exceeded("the proxy does not answer")), true),
        };
        let gone = operator.send(told).await.is_err();
        if last {
            attendee.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            return;
        }
        if gone || attendee.questions.try_send(say(question::Message::Grant(Grant { chunks: 1 }))).is_err() {
            break;
        }
    }
    attendee.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    // The proxy may be gone already, or so slow that it will see a full channel first; its question is bounded anyway.
    attendee.questions.try_send(say(question::Message::Cancel(Cancel {}))).unwrap_or_default();
}
