//! DNS messages as bytes. Of a question only the head and the question itself are understood: what is passed on goes as it
//! came, so that nothing that an upstream would understand is lost on the way.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Header, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable as _, BinDecoder};
use weft_core::names::{MESH_SUFFIX, Wanted};

/// How long resolvers may keep what we say. Virtual addresses are for the life of a service.
const TTL_SECONDS: u32 = 30;

/// As [`TTL_SECONDS`], of what does not exist: it may do so at any moment.
const NEGATIVE_TTL_SECONDS: u32 = 5;

/// Bytes of a head.
pub(super) const HEAD_BYTES: usize = 12;

/// Smallest answer that every client takes by UDP, and the largest that we send (RFC 6891, 6.2.3 and 6.2.5).
const UDP_BYTES: std::ops::RangeInclusive<u16> = 512..=4096;

/// A question that has an answer.
#[derive(Clone, Debug)]
pub(super) struct Question {
    metadata: Metadata,
    query: Query,
    /// As it came.
    pub(super) bytes: Vec<u8>,
    edns: bool,
    /// Its extension is of a version that nobody knows.
    pub(super) bad_version: bool,
    /// The largest answer that the client takes by UDP.
    pub(super) udp_bytes: usize,
}

/// What a packet is.
#[derive(Debug)]
pub(super) enum Parsed {
    Question(Box<Question>),
    /// Nothing that we answer by more than this.
    Refused(Vec<u8>),
    /// No question at all. Answering would make us part of a loop or an attack.
    Dropped,
}

/// Reads a packet of a client.
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    let mut decoder = BinDecoder::new(bytes);
    let Ok(Header { metadata, counts }) = Header::read(&mut decoder) else { return Parsed::Dropped };
    if metadata.message_type == MessageType::Response {
        return Parsed::Dropped;
    }
    let refused = |code| encode(&response(&metadata, code)).map_or(Parsed::Dropped, Parsed::Refused);
    if metadata.op_code != OpCode::Query {
        return refused(ResponseCode::NotImp);
    }
    if counts.queries != 1 || counts.answers != 0 {
        return refused(ResponseCode::FormErr);
    }
    let Ok(query) = Query::read(&mut decoder) else { return refused(ResponseCode::FormErr) };
    // Records that we do not understand are the upstream's to judge.
    let edns = Message::from_vec(bytes).ok().and_then(|message| message.edns);
    let udp_bytes = edns.as_ref().map_or(*UDP_BYTES.start(), Edns::max_payload);
    let udp_bytes = udp_bytes.clamp(*UDP_BYTES.start(), *UDP_BYTES.end()).into();
    let bad_version = edns.as_ref().is_some_and(|edns| edns.version() != 0);
    let edns = edns.is_some();
    Parsed::Question(Box::new(Question { metadata, query, bytes: bytes.to_vec(), edns, bad_version, udp_bytes }))
}

impl Question {
    /// The labels of the name, first the leftmost; `None` where one is no text, which no name of ours is.
    pub(super) fn labels(&self) -> Option<Vec<&str>> {
        self.query
            .name()
            .iter()
            .map(|label| std::str::from_utf8(label).ok().filter(|text| !text.contains('.')))
            .collect()
    }

    /// What is asked for; `None` for a class that is not the Internet's.
    pub(super) fn wanted(&self) -> Option<Wanted> {
        if !matches!(self.query.query_class(), DNSClass::IN | DNSClass::ANY) {
            return None;
        }
        let known = [(RecordType::A, Wanted::A), (RecordType::AAAA, Wanted::Aaaa), (RecordType::ANY, Wanted::Any)];
        let found = known.into_iter().find(|(kind, _)| *kind == self.query.query_type());
        Some(found.map_or(Wanted::Other, |(_, wanted)| wanted))
    }

    /// The answer with these addresses. Without any it says that there is nothing of the kind.
    pub(super) fn answer(&self, addresses: &[IpAddr]) -> Option<Vec<u8>> {
        let mut message = self.response(ResponseCode::NoError);
        message.metadata.authoritative = true;
        for address in addresses {
            let data = match *address {
                IpAddr::V4(address) => RData::A(A(address)),
                IpAddr::V6(address) => RData::AAAA(AAAA(address)),
            };
            message.add_answer(Record::from_rdata(self.query.name().clone(), TTL_SECONDS, data));
        }
        self.with_authority(message)
    }

    /// The answer that the name does not exist.
    pub(super) fn no_such_name(&self) -> Option<Vec<u8>> {
        let mut message = self.response(ResponseCode::NXDomain);
        message.metadata.authoritative = true;
        self.with_authority(message)
    }

    /// The answer that there is none for now.
    pub(super) fn failure(&self) -> Option<Vec<u8>> {
        encode(&self.response(ResponseCode::ServFail))
    }

    /// The answer to a question whose extension nobody knows (RFC 6891, 6.1.3).
    pub(super) fn unknown_version(&self) -> Option<Vec<u8>> {
        encode(&self.response(ResponseCode::BADVERS))
    }

    /// `answer`, or, where it is too long for UDP, word that it is to be had by TCP.
    pub(super) fn by_udp(&self, answer: Vec<u8>) -> Option<Vec<u8>> {
        if answer.len() <= self.udp_bytes {
            return Some(answer);
        }
        let code = Header::read(&mut BinDecoder::new(&answer)).map(|header| header.metadata.response_code);
        let mut message = self.response(code.unwrap_or(ResponseCode::ServFail));
        message.metadata.truncation = true;
        encode(&message)
    }

    /// Whether `answer` is one to this question, asked with `id`. Servers may spell the name in another case.
    pub(super) fn is_answered_by(&self, answer: &[u8], id: u16) -> bool {
        let mut decoder = BinDecoder::new(answer);
        let Ok(Header { metadata, counts }) = Header::read(&mut decoder) else { return false };
        let ours = metadata.id == id && metadata.message_type == MessageType::Response && counts.queries <= 1;
        // Some say only FORMERR or REFUSED, without the question.
        if counts.queries == 0 {
            return ours && metadata.response_code != ResponseCode::NoError;
        }
        ours && Query::read(&mut decoder).is_ok_and(|query| query == self.query)
    }

    /// As it goes to an upstream.
    pub(super) fn with_id(&self, id: u16) -> Vec<u8> {
        with_id(self.bytes.clone(), id)
    }

    /// An upstream's answer as it goes to the client.
    pub(super) fn returned(&self, answer: Vec<u8>) -> Vec<u8> {
        with_id(answer, self.metadata.id)
    }

    fn response(&self, code: ResponseCode) -> Message {
        let mut message = response(&self.metadata, code);
        message.add_query(self.query.clone());
        if self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(*UDP_BYTES.end());
            message.set_edns(edns);
        }
        message
    }

    /// Where nothing is answered about a name of the mesh's own, it says for how long that holds (RFC 2308).
    fn with_authority(&self, mut message: Message) -> Option<Vec<u8>> {
        let zone = Name::from_labels(MESH_SUFFIX.map(str::as_bytes)).ok()?;
        if message.answers.is_empty() && zone.zone_of(self.query.name()) {
            let host = |label: &str| Name::from_labels([label.as_bytes()]).and_then(|name| name.append_domain(&zone));
            let (server, mailbox) = (host("ns").ok()?, host("hostmaster").ok()?);
            let soa = SOA::new(server, mailbox, 1, 7200, 1800, 86400, NEGATIVE_TTL_SECONDS);
            message.add_authority(Record::from_rdata(zone, NEGATIVE_TTL_SECONDS, RData::SOA(soa)));
        }
        encode(&message)
    }
}

/// The code of an answer.
pub(super) fn code(answer: &[u8]) -> Option<ResponseCode> {
    Header::read(&mut BinDecoder::new(answer)).ok().map(|header| header.metadata.response_code)
}

/// A question of our own for a name, to be forwarded to ourselves if there is a loop.
pub(super) fn probe(label: &str) -> Option<Box<Question>> {
    let mut message = Message::new(0, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let name = Name::from_labels([label.as_bytes(), label.as_bytes()]).ok()?;
    message.add_query(Query::query(name, RecordType::HINFO));
    match parse(&encode(&message)?) {
        Parsed::Question(question) => Some(question),
        Parsed::Refused(_) | Parsed::Dropped => None,
    }
}

/// A refusal of a packet that nobody has time to look at.
pub(super) fn overloaded(bytes: &[u8]) -> Option<Vec<u8>> {
    match parse(bytes) {
        Parsed::Question(question) => question.failure(),
        Parsed::Refused(answer) => Some(answer),
        Parsed::Dropped => None,
    }
}

fn response(to: &Metadata, code: ResponseCode) -> Message {
    let mut message = Message::response(to.id, to.op_code);
    message.metadata = Metadata::response_from_request(to);
    message.metadata.recursion_available = true;
    message.metadata.response_code = code;
    message
}

fn encode(message: &Message) -> Option<Vec<u8>> {
    message.to_vec().ok()
}

fn with_id(mut bytes: Vec<u8>, id: u16) -> Vec<u8> {
    for (place, byte) in bytes.iter_mut().zip(id.to_be_bytes()) {
        *place = byte;
    }
    bytes
}
