//! A DNS server of a test: real UDP, answers as scripted.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::config::{NameServerConfig, ResolverConfig, ResolverOpts};
use tokio::net::UdpSocket;

use crate::names::resolver::Asker;

/// Query types.
pub(super) const A: u16 = 1;
pub(super) const AAAA: u16 = 28;
const CNAME: u16 = 5;

/// What the server does about a question.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    /// These addresses.
    Addresses(Vec<IpAddr>, u32),
    /// An alias that lives so long, and its addresses.
    Alias(u32, Vec<IpAddr>, u32),
    /// A response code alone.
    Code(u8),
    /// Nothing at all.
    Silence,
    /// Bytes that are no message.
    Noise,
}

/// By name and query type. What is not there does not exist.
type Script = HashMap<(String, u16), Reply>;

#[derive(Clone, Debug)]
pub(super) struct Server {
    script: Arc<Mutex<Script>>,
    asked: Arc<Mutex<Vec<String>>>,
    address: SocketAddr,
}

impl Server {
    pub(super) async fn start() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let server = Self { script: Arc::default(), asked: Arc::default(), address };
        tokio::spawn(server.clone().serve(socket));
        server
    }

    /// From now on.
    pub(super) fn set(&self, name: &str, kind: u16, reply: Reply) {
        self.script.lock().unwrap().insert((name.to_owned(), kind), reply);
    }

    /// IPv4 addresses, given by their last byte, and no IPv6 ones.
    pub(super) fn set_v4(&self, name: &str, lasts: &[u8], ttl: u32) {
        let addresses = lasts.iter().map(|last| IpAddr::from([192, 0, 2, *last])).collect();
        self.set(name, A, Reply::Addresses(addresses, ttl));
        self.set(name, AAAA, Reply::Addresses(vec![], ttl));
    }

    pub(super) fn set_both(&self, name: &str, reply: &Reply) {
        self.set(name, A, reply.clone());
        self.set(name, AAAA, reply.clone());
    }

    /// Names of the questions for A records so far.
    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    pub(super) fn asker(&self, hosts: &str, search: &[&str]) -> Asker {
        let mut server = NameServerConfig::udp(self.address.ip());
        server.connections[0].port = self.address.port();
        let mut config = ResolverConfig::from_name_servers(vec![server]);
        for domain in search {
            config.add_search(domain.parse().unwrap());
        }
        let mut options = ResolverOpts::default();
        options.timeout = Duration::from_millis(300);
        Asker::new(hosts.as_bytes(), config, options).unwrap()
    }

    async fn serve(self, socket: UdpSocket) {
        let mut buffer = [0; 2048];
        loop {
            let (length, peer) = socket.recv_from(&mut buffer).await.unwrap();
            if let Some(reply) = self.reply(&buffer[..length]) {
                socket.send_to(&reply, peer).await.unwrap();
            }
        }
    }

    fn reply(&self, query: &[u8]) -> Option<Vec<u8>> {
        let (name, kind, end) = question(query);
        if kind == A {
            self.asked.lock().unwrap().push(name.clone());
        }
        let reply = self.script.lock().unwrap().get(&(name, kind)).cloned().unwrap_or(Reply::Code(3));
        let records: Vec<Vec<u8>> = match &reply {
            Reply::Addresses(addresses, ttl) => {
                addresses.iter().map(|address| record([0xc0, 12], kind, *ttl, &octets(*address))).collect()
            }
            Reply::Alias(ttl, addresses, of_addresses) => {
                let start = u8::try_from(end + 12).unwrap();
                let alias = record([0xc0, 12], CNAME, *ttl, &[5, b'a', b'l', b'i', b'a', b's', 0]);
                let of = |address: &IpAddr| record([0xc0, start], kind, *of_addresses, &octets(*address));
                std::iter::once(alias).chain(addresses.iter().map(of)).collect()
            }
            Reply::Code(_) => vec![],
            Reply::Silence => return None,
            Reply::Noise => return Some([&query[..2], &[0xff; 40]].concat()),
        };
        let code = if let Reply::Code(code) = reply { code } else { 0 };
        let count = u8::try_from(records.len()).unwrap();
        let head = [&query[..2], &[0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0]].concat();
        Some([head, query[12..end].to_vec(), records.concat()].concat())
    }
}

/// The name asked for, the type, and where the question ends.
fn question(query: &[u8]) -> (String, u16, usize) {
    let (mut at, mut labels) = (12, Vec::new());
    while query[at] != 0 {
        let length = usize::from(query[at]);
        labels.push(String::from_utf8(query[at + 1..=at + length].to_vec()).unwrap());
        at += 1 + length;
    }
    (labels.join("."), u16::from_be_bytes([query[at + 1], query[at + 2]]), at + 5)
}

fn record(name: [u8; 2], kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap().to_be_bytes();
    [&name[..], &kind.to_be_bytes(), &[0, 1], &ttl.to_be_bytes(), &length, data].concat()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
