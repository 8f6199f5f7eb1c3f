//! Asks DNS as this machine is configured: `/etc/hosts` first, then the servers, search list and options of
//! `/etc/resolv.conf`. Both files are read again when they change.
//!
//! Unlike the system's own resolver this one tells how long an answer may be kept.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{Hosts, Resolver, TokioResolver};
use tokio::time::timeout;

use super::answer::{ADDRESSES_MAX, Answer, LookupError};
use crate::resource::service::leads_nowhere;

/// Longest time that one lookup takes, over all servers and names of the search list.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(15);

/// Largest `/etc/hosts` or `/etc/resolv.conf` that is read.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// How long what `/etc/hosts` says is kept. The file is read again when it changes.
const HOSTS_TTL: Duration = Duration::from_secs(10);

/// Where the configuration comes from.
#[derive(Debug)]
pub struct Source {
    hosts: PathBuf,
    resolv_conf: PathBuf,
    read: Option<(Stamps, Asker)>,
}

/// When the files were last changed, and how large they were then.
type Stamps = [Option<(SystemTime, u64)>; 2];

/// Asks as configured at one moment. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Asker {
    hosts: Arc<Hosts>,
    servers: TokioResolver,
    search: Vec<Name>,
    ndots: usize,
}

impl Source {
    /// This machine's.
    #[must_use]
    pub fn system() -> Self {
        Self::of_files("/etc/hosts", "/etc/resolv.conf")
    }

    /// Always this one.
    #[cfg(test)]
    pub(super) fn fixed(asker: Asker) -> Self {
        Self { read: Some(([None, None], asker)), ..Self::of_files("", "") }
    }

    /// Of these files.
    pub(super) fn of_files(hosts: impl Into<PathBuf>, resolv_conf: impl Into<PathBuf>) -> Self {
        Self { hosts: hosts.into(), resolv_conf: resolv_conf.into(), read: None }
    }

    /// As configured now.
    ///
    /// # Errors
    /// When DNS cannot be asked at all.
    pub async fn asker(&mut self) -> Result<Asker, LookupError> {
        let stamps = [stamp(&self.hosts).await, stamp(&self.resolv_conf).await];
        if let Some((read, asker)) = &self.read
            && *read == stamps
        {
            return Ok(asker.clone());
        }
        let (hosts, resolv_conf) = (self.hosts.clone(), self.resolv_conf.clone());
        let asker = match tokio::join!(read(&hosts), read(&resolv_conf)) {
            (hosts, Ok(Some(text))) => {
                let (config, options) = parse_resolv_conf(&text).unwrap_or_else(|error| {
                    tracing::warn!(%error, "{} names no usable server; asking 127.0.0.1", resolv_conf.display());
                    (local_server(), ResolverOpts::default())
                });
                Asker::new(&hosts?.unwrap_or_default(), config, options)?
            }
            // Without the file the server of this machine is asked, as resolv.conf(5) has it.
            (hosts, Ok(None)) => Asker::new(&hosts?.unwrap_or_default(), local_server(), ResolverOpts::default())?,
            (_, Err(error)) => return Err(error),
        };
        self.read = Some((stamps, asker.clone()));
        Ok(asker)
    }
}

impl Asker {
    pub(super) fn new(hosts: &[u8], config: ResolverConfig, mut options: ResolverOpts) -> Result<Self, LookupError> {
        let mut table = Hosts::default();
        table.read_hosts_conf(hosts).map_err(|error| LookupError::Failed(format!("hosts file: {error}")))?;
        // An answer is kept by whoever asks; hosts and the search list are looked at here, for both families alike.
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        let (ndots, search) = (options.ndots, config.search().to_vec());
        let builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options);
        let servers = builder.build().map_err(|error| failed(&error))?;
        Ok(Self { hosts: Arc::new(table), servers, search, ndots })
    }

    /// What a name stands for now.
    ///
    /// # Errors
    /// Why it stands for nothing.
    pub async fn lookup(&self, name: &str) -> Result<Answer, LookupError> {
        // What a server sends must end no task of this process, whatever it does to the code that reads it.
        let asking = std::panic::AssertUnwindSafe(self.find(name)).catch_unwind();
        let answer = match timeout(LOOKUP_TIMEOUT, asking).await {
            Ok(Ok(found)) => found?,
            Ok(Err(_)) => return Err(LookupError::Failed("the answer is not understood".to_owned())),
            Err(_) => return Err(LookupError::Failed(format!("no answer within {} s", LOOKUP_TIMEOUT.as_secs()))),
        };
        usable(answer)
    }

    async fn find(&self, name: &str) -> Result<Answer, LookupError> {
        if let Ok(address) = name.parse::<Ipv4Addr>() {
            return Ok(Answer { v4: Some(vec![address]), v6: Some(Vec::new()), ttl: Duration::MAX });
        }
        let asked = Name::from_ascii(name).map_err(|error| LookupError::Failed(error.to_string()))?;
        if let Some(answer) = self.in_hosts(&asked) {
            return Ok(answer);
        }
        for candidate in self.candidates(&asked) {
            match self.ask(candidate).await {
                Err(LookupError::NoAddress) => {}
                outcome => return outcome,
            }
        }
        Err(LookupError::NoAddress)
    }

    fn in_hosts(&self, name: &Name) -> Option<Answer> {
        let listed = |kind| {
            let found = self.hosts.lookup_static_host(&Query::query(name.to_lowercase(), kind));
            let records: Vec<RData> =
                found.iter().flat_map(|found| found.answers()).map(|record| record.data.clone()).collect();
            records
        };
        let answer = Answer {
            v4: Some(v4(listed(RecordType::A).iter())),
            v6: Some(v6(listed(RecordType::AAAA).iter())),
            ttl: HOSTS_TTL,
        };
        if answer.is_empty() { None } else { Some(answer) }
    }

    /// The full names that a name may mean, the likeliest first: resolv.conf(5), `search` and `ndots`.
    fn candidates(&self, name: &Name) -> Vec<Name> {
        let mut itself = name.clone();
        itself.set_fqdn(true);
        if name.is_fqdn() {
            return vec![itself];
        }
        let mut names: Vec<Name> =
            self.search.iter().filter_map(|domain| name.clone().append_domain(domain).ok()).collect();
        let dots = usize::from(name.num_labels()).saturating_sub(1);
        if dots >= self.ndots {
            names.insert(0, itself);
        } else {
            names.push(itself);
        }
        names
    }

    async fn ask(&self, name: Name) -> Result<Answer, LookupError> {
        let (of_v4, of_v6) = tokio::join!(self.ask_for(&name, RecordType::A), self.ask_for(&name, RecordType::AAAA));
        let failure = of_v4.as_ref().err().or_else(|| of_v6.as_ref().err()).cloned();
        let ttl =
            [&of_v4, &of_v6].into_iter().flatten().filter(|(data, _)| !data.is_empty()).map(|(_, ttl)| *ttl).min();
        let answer = Answer {
            v4: of_v4.ok().map(|(data, _)| v4(data.iter())),
            v6: of_v6.ok().map(|(data, _)| v6(data.iter())),
            ttl: ttl.unwrap_or_default(),
        };
        match failure {
            _ if !answer.is_empty() => Ok(answer),
            Some(failure) => Err(failure),
            None => Err(LookupError::NoAddress),
        }
    }

    /// The records of one kind, empty when there are none, and how long they may be kept.
    async fn ask_for(&self, name: &Name, kind: RecordType) -> Result<(Vec<RData>, Duration), LookupError> {
        match self.servers.lookup(name.clone(), kind).await {
            Ok(found) => {
                // The records on the way, such as aliases, count, too.
                let ttl = found.answers().iter().map(|record| record.ttl).min().unwrap_or_default();
                let data = found.answers().iter().map(|record| record.data.clone()).collect();
                Ok((data, Duration::from_secs(ttl.into())))
            }
            Err(error) if error.is_no_records_found() => Ok((Vec::new(), Duration::ZERO)),
            Err(error) => Err(failed(&error)),
        }
    }
}

/// Without the addresses that can be nobody's endpoint.
fn usable(mut answer: Answer) -> Result<Answer, LookupError> {
    let all: Vec<IpAddr> = answer.addresses().collect();
    answer.v4 = answer.v4.map(|addresses| bounded(addresses, |address| leads_nowhere(address.into())));
    answer.v6 = answer.v6.map(|addresses| bounded(addresses, |address| leads_nowhere(address.into())));
    if answer.is_empty() { Err(LookupError::Unusable(all)) } else { Ok(answer) }
}

fn bounded<T: Ord + Copy>(mut addresses: Vec<T>, refused: impl Fn(T) -> bool) -> Vec<T> {
    addresses.retain(|address| !refused(*address));
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(ADDRESSES_MAX);
    addresses
}

fn v4<'a>(data: impl Iterator<Item = &'a RData>) -> Vec<Ipv4Addr> {
    data.filter_map(RData::ip_addr)
        .filter_map(|address| if let IpAddr::V4(v4) = address { Some(v4) } else { None })
        .collect()
}

fn v6<'a>(data: impl Iterator<Item = &'a RData>) -> Vec<Ipv6Addr> {
    data.filter_map(RData::ip_addr)
        .filter_map(|address| if let IpAddr::V6(v6) = address { Some(v6) } else { None })
        .collect()
}

fn failed(error: &NetError) -> LookupError {
    LookupError::Failed(error.to_string())
}

fn local_server() -> ResolverConfig {
    ResolverConfig::from_name_servers(vec![NameServerConfig::udp_and_tcp(Ipv4Addr::LOCALHOST.into())])
}

async fn stamp(path: &PathBuf) -> Option<(SystemTime, u64)> {
    let metadata = tokio::fs::metadata(path).await.ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// `None` where there is no such file.
async fn read(path: &PathBuf) -> Result<Option<Vec<u8>>, LookupError> {
    let failed = |error: std::io::Error| LookupError::Failed(format!("{} cannot be read: {error}", path.display()));
    match tokio::fs::metadata(path).await {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
        Ok(metadata) if metadata.len() > FILE_BYTES_MAX => {
            Err(LookupError::Failed(format!("{} is larger than {FILE_BYTES_MAX} bytes", path.display())))
        }
        Ok(_) => tokio::fs::read(path).await.map(Some).map_err(failed),
    }
}
