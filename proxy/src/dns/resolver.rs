//! One question from its bytes to the bytes of its answer.

use std::sync::Arc;

use hickory_proto::op::ResponseCode;
use weft_core::names::{Known, Owner, Verdict, decide, looks_for, owner};

use super::counts::{DnsCounts, Outcome};
use super::forward::{Forwarder, NoAnswer, Way, ask};
use super::lookup::Lookup;
use super::packet::{Parsed, Question, code, parse, probe};
use super::upstreams::Upstreams;
use crate::identity::IdentityWatch;

/// Longest time a name server that leads back to us may take to do so.
const PROBE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);

/// All that answering takes.
#[derive(Debug)]
pub(super) struct Resolver {
    lookup: Lookup,
    upstreams: Arc<Upstreams>,
    forwarder: Forwarder,
    identity: IdentityWatch,
    usual_namespace: Option<&'static str>,
    /// Host of the control plane. Its name is not the mesh's to answer, even if it reads like a service's: this process may
    /// look for it here, and has to find it before it knows anything of the mesh.
    control_plane: Option<String>,
    counts: Arc<DnsCounts>,
}

impl Resolver {
    /// `usual_namespace` is that of a workload without an identity.
    pub(super) fn new(
        lookup: Lookup,
        upstreams: Upstreams,
        identity: IdentityWatch,
        usual_namespace: Option<&'static str>,
        control_plane: Option<String>,
    ) -> Self {
        // Read before the first question.
        let this = Self {
            lookup,
            upstreams: Arc::new(upstreams),
            forwarder: Forwarder::default(),
            identity,
            usual_namespace,
            control_plane,
            counts: Arc::default(),
        };
        this.probe(this.upstreams.refresh());
        this
    }

    pub(super) fn counts(&self) -> Arc<DnsCounts> {
        Arc::clone(&self.counts)
    }

    pub(super) async fn follow_upstreams(self: Arc<Self>) {
        loop {
            Upstreams::pause().await;
            self.probe(self.upstreams.refresh());
        }
    }

    /// The answer to a packet, if it gets one.
    pub(super) async fn resolve(&self, packet: &[u8], way: Way) -> Option<Vec<u8>> {
        let (outcome, answer) = match parse(packet) {
            Parsed::Question(question) => {
                let (outcome, answer) = self.answer(&question, way).await;
                (
                    outcome,
                    answer.and_then(|answer| if way == Way::Udp { question.by_udp(answer) } else { Some(answer) }),
                )
            }
            Parsed::Refused(answer) => (Outcome::Refused, Some(answer)),
            Parsed::Dropped => (Outcome::Dropped, None),
        };
        self.counts.note(outcome);
        answer
    }

    async fn answer(&self, question: &Question, way: Way) -> (Outcome, Option<Vec<u8>>) {
        if question.bad_version {
            return (Outcome::Refused, question.unknown_version());
        }
        let labels = question.labels();
        if labels.as_ref().is_some_and(|labels| self.upstreams.is_probe(labels)) {
            return (Outcome::Loop, question.failure());
        }
        let verdict = match (labels, question.wanted()) {
            (Some(labels), Some(wanted)) if !self.is_control_plane(&labels) => {
                let owner = self.owner(&labels);
                let known = match &owner {
                    Owner::Service(key) | Owner::Either(key) => self.lookup.service(key).await,
                    Owner::Inner | Owner::Nobody | Owner::Elsewhere => Known::Absent,
                };
                decide(&owner, wanted, known)
            }
            _ => Verdict::Forward { doubtful: false },
        };
        match verdict {
            Verdict::Answer(addresses) => (Outcome::Answered, question.answer(&addresses)),
            Verdict::NoSuchName => (Outcome::NoSuchName, question.no_such_name()),
            Verdict::Unknowable => (Outcome::Unknowable, question.failure()),
            Verdict::Forward { doubtful } => self.forward(question, way, doubtful).await,
        }
    }

    fn is_control_plane(&self, labels: &[&str]) -> bool {
        self.control_plane.as_ref().is_some_and(|host| looks_for(labels, host))
    }

    async fn forward(&self, question: &Question, way: Way, doubtful: bool) -> (Outcome, Option<Vec<u8>>) {
        match self.forwarder.forward(question, way, &self.upstreams, &self.counts).await {
            Ok(answer) if doubtful && code(&answer) == Some(ResponseCode::NXDomain) => {
                (Outcome::Unknowable, question.failure())
            }
            Ok(answer) => (Outcome::Forwarded, Some(answer)),
            Err(NoAnswer::Failed) => (Outcome::UpstreamFailed, question.failure()),
            Err(NoAnswer::Overload) => (Outcome::Overload, question.failure()),
        }
    }

    fn owner(&self, labels: &[&str]) -> Owner {
        let identity = self.identity.borrow().clone();
        let namespace = identity.as_ref().map(|identity| identity.id.namespace()).or(self.usual_namespace);
        owner(labels, namespace)
    }

    /// Finds servers that lead back here; see [`Upstreams::is_probe`].
    fn probe(&self, servers: Vec<(std::net::SocketAddr, String)>) {
        for (server, label) in servers {
            let Some(question) = probe(&label) else { continue };
            let (counts, upstreams) = (self.counts(), Arc::clone(&self.upstreams));
            tokio::spawn(async move {
                let asked = ask(&question, Way::Udp, server, &counts);
                // Of failures, those of a server behind are some.
                if let Ok(Ok(answer)) = tokio::time::timeout(PROBE_TIMEOUT, asked).await
                    && matches!(code(&answer), Some(ResponseCode::NoError | ResponseCode::NXDomain))
                {
                    upstreams.answered(&label);
                }
            });
        }
    }

    /// A packet that nobody has time for.
    pub(super) fn turn_away(&self, packet: &[u8]) -> Option<Vec<u8>> {
        self.counts.note(Outcome::Overload);
        super::packet::overloaded(packet)
    }
}
