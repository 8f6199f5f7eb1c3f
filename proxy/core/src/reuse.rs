//! Rules of connection pools: may this idle connection carry the next request, may another be opened, which one goes
//! (U2, T20).
//!
//! A server closes idle connections when it likes, and a request that crosses the close on the wire may or may not have
//! been executed: for a POST that is an error the caller sees. Pools therefore learn how long a server keeps idle
//! connections, from what it announces and from closes they observe, and retire theirs ahead of that. A wrong guess costs
//! a new connection, never a request.
//!
//! Each worker has its own pool, so nothing here is shared; all limits are per endpoint and worker.

use std::time::Duration;

use crate::entropy::Entropy;
use crate::fields::Fields;
use crate::time::Moment;

/// Observed closes sooner than this teach nothing: a restarting server closes what was in use a moment ago.
const OBSERVED_MIN: Duration = Duration::from_millis(100);

/// How long an observed close is believed. A server's idle time rarely changes, but a close may have had another reason;
/// then this is how long it costs extra connections.
const OBSERVED_FOR: Duration = Duration::from_secs(300);

/// Bounds of the margin by which a connection is retired ahead of the server; within them a fifth of its idle time. Covers
/// the way to the server and the coarseness of its timers.
const MARGIN_MIN: Duration = Duration::from_millis(100);
const MARGIN_MAX: Duration = Duration::from_secs(2);

/// For how long a sidecar that takes no links on shared connections is not asked again: it is of an older version, and may
/// be replaced at the same address.
const REFUSAL_FOR: Duration = Duration::from_secs(300);

/// Longest idle time read from `Keep-Alive`, so that arithmetic on it stays harmless: a day.
const ANNOUNCED_SECONDS_MAX: u64 = 86_400;

/// Limits of the pool of one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    /// A connection idle for longer is closed. Default 60 s, what most servers allow at most.
    pub idle_timeout: Duration,
    /// A connection older than this takes no more requests, so that load follows changed endpoints and certificates.
    /// Each gets up to a fifth less, or all of them would reconnect at once. Default 30 min.
    pub age_max: Duration,
    /// Most idle HTTP/1 connections kept. Default 64.
    pub idle_max: usize,
    /// Most connections open or opening, so that one endpoint cannot take all file descriptors. One caller may use as many
    /// as are left over by all ([`crate::share`]), half of them at most. Default 2048.
    pub connections_max: usize,
    /// Most streams in flight on an HTTP/2 connection; the peer's own limit applies too. Default 100, the usual limit of
    /// servers.
    pub streams_max: u32,
    /// Requests in flight to one sidecar that each have an HTTP/1 connection of their own; what goes on beside them shares
    /// ([`next_link`]). A record with one request in it costs the same on either, and a stream's frames come on top: so
    /// with few requests sharing only costs. Default 4, more than are under way at a thousand requests per second.
    pub own_links_max: usize,
    /// Links on one shared connection from which on another is opened, as long as the peer has more workers than we have
    /// connections. Default 64: as many requests in one record are enough.
    pub links_max: u32,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(60),
            age_max: Duration::from_secs(30 * 60),
            idle_max: 64,
            connections_max: 2048,
            streams_max: 100,
            own_links_max: 4,
            links_max: 64,
        }
    }
}

/// What is known of how long a server keeps idle connections. One per endpoint and worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerIdle {
    announced: Option<Duration>,
    observed: Option<(Duration, Moment)>,
}

impl ServerIdle {
    /// Learns from the fields of a response, before hop-by-hop fields are stripped: `Keep-Alive: timeout=5`.
    pub fn heard(&mut self, fields: &Fields) {
        if let Some(timeout) = announced_idle(fields) {
            self.announced = Some(timeout);
        }
    }

    /// Learns from a connection that the server closed after `idle` without traffic.
    pub fn closed_after(&mut self, idle: Duration, now: Moment) {
        if idle < OBSERVED_MIN {
            return;
        }
        let shortest = self.observed(now).map_or(idle, |known| known.min(idle));
        self.observed = Some((shortest, now));
    }

    /// How long a connection to this server may have been idle and still be used, under `limits`.
    #[must_use]
    pub fn usable_for(&self, limits: &PoolLimits, now: Moment) -> Duration {
        let known = [self.announced, self.observed(now)].into_iter().flatten().min();
        let ahead = known.map(|idle| idle.saturating_sub((idle / 5).clamp(MARGIN_MIN, MARGIN_MAX)));
        ahead.map_or(limits.idle_timeout, |ahead| ahead.min(limits.idle_timeout))
    }

    fn observed(&self, now: Moment) -> Option<Duration> {
        self.observed.filter(|(_, at)| now.since(*at) < OBSERVED_FOR).map(|(idle, _)| idle)
    }
}

/// `timeout` of `Keep-Alive` (RFC 2068 section 19.7.1.1; what servers send since). `None` when absent or not a number.
#[must_use]
pub fn announced_idle(fields: &Fields) -> Option<Duration> {
    fields.list(crate::fields::Known::KeepAlive).find_map(|parameter| {
        let (name, value) = std::str::from_utf8(parameter).ok()?.split_once('=')?;
        let seconds: u64 = name.trim().eq_ignore_ascii_case("timeout").then(|| value.trim().parse().ok())??;
        Some(Duration::from_secs(seconds.min(ANNOUNCED_SECONDS_MAX)))
    })
}

/// When a connection of a pool was opened, and until when it takes requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    retires: Moment,
}

impl Life {
    /// Of a connection opened now.
    #[must_use]
    pub fn begin(limits: &PoolLimits, now: Moment, entropy: &mut impl Entropy) -> Self {
        let fifth = usize::try_from((limits.age_max / 5).as_millis()).unwrap_or(usize::MAX);
        let less = Duration::from_millis(u64::try_from(entropy.below(fifth.saturating_add(1))).unwrap_or(0));
        Self { retires: now + limits.age_max.saturating_sub(less) }
    }

    /// Whether it takes no more requests.
    #[must_use]
    pub fn is_over(&self, now: Moment) -> bool {
        now >= self.retires
    }
}

/// What to do with an idle connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// Use it, after the shell has checked it for EOF and unexpected data.
    Yes,
    /// Close it: it is past its life.
    TooOld,
    /// Close it: the server may be closing it right now, or it was idle for too long.
    IdleTooLong,
}

/// Whether a connection that has been idle since `idle_since` may carry a request at `now`.
#[must_use]
pub fn may_reuse(limits: &PoolLimits, server: &ServerIdle, life: Life, idle_since: Moment, now: Moment) -> Reuse {
    if life.is_over(now) {
        Reuse::TooOld
    } else if now >= idle_deadline(limits, server, idle_since, now) {
        Reuse::IdleTooLong
    } else {
        Reuse::Yes
    }
}

/// When a connection idle since `idle_since` is to be closed, as far as is known at `now`; for the pool's timer.
#[must_use]
pub fn idle_deadline(limits: &PoolLimits, server: &ServerIdle, idle_since: Moment, now: Moment) -> Moment {
    idle_since + server.usable_for(limits, now)
}

/// How many idle connections to close, of those listed by the moment each became idle, oldest first: all that were idle
/// for too long, and what exceeds `idle_max`. Close them from the front; take connections for requests from the back,
/// where they are least likely to be closing and the ones in front can grow old.
#[must_use]
pub fn evict(
    limits: &PoolLimits,
    server: &ServerIdle,
    idle_since: impl ExactSizeIterator<Item = Moment>,
    now: Moment,
) -> usize {
    let excess = idle_since.len().saturating_sub(limits.idle_max);
    let stale = idle_since.take_while(|since| now >= idle_deadline(limits, server, *since, now)).count();
    excess.max(stale)
}

/// An open HTTP/2 connection, as a pool sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Multiplexed {
    /// Streams in flight.
    pub in_flight: u32,
    /// The peer's `SETTINGS_MAX_CONCURRENT_STREAMS`.
    pub peer_streams_max: u32,
    /// It takes no more streams: GOAWAY, a failed PING, or past its life.
    pub closing: bool,
}

/// Where the next HTTP/2 request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// On the connection with this index.
    On(usize),
    /// On a new connection.
    Open,
    /// Nowhere now: every connection is full and no more may be opened.
    Full,
}

/// Places a request on the least loaded connection with room, on a new one when all are full, or nowhere.
///
/// `opening` counts connections being opened; a request that waits for one need not open another, so call this again when
/// it is open.
#[must_use]
pub fn place(limits: &PoolLimits, open: impl IntoIterator<Item = Multiplexed>, opening: usize) -> Placement {
    let (least_loaded, count) = with_room(open, limits.streams_max);
    match least_loaded {
        Some((index, _)) => Placement::On(index),
        None if may_open(limits, count, opening) => Placement::Open,
        None => Placement::Full,
    }
}

/// As [`place`], for an HTTP/1 link on a shared connection. Links last, so they are spread over connections early: one
/// connection is served by one of the peer's `workers`. Nobody waits for a second one where there is room: whoever opens
/// it does.
#[must_use]
pub fn place_link(
    limits: &PoolLimits,
    open: impl IntoIterator<Item = Multiplexed>,
    opening: usize,
    workers: usize,
) -> Placement {
    let (least_loaded, count) = with_room(open, limits.streams_max);
    match least_loaded {
        Some((_, links)) if links >= limits.links_max && opening == 0 && count < workers => Placement::Open,
        Some((index, _)) => Placement::On(index),
        None if may_open(limits, count, opening) => Placement::Open,
        None => Placement::Full,
    }
}

/// The least loaded of the connections that take another stream, with its load; and how many there are in all.
fn with_room(open: impl IntoIterator<Item = Multiplexed>, streams_max: u32) -> (Option<(usize, u32)>, usize) {
    let (mut best, mut count) = (None, 0_usize);
    for (index, connection) in open.into_iter().enumerate() {
        count += 1;
        let room = connection.in_flight < connection.peer_streams_max.min(streams_max);
        let better = best.is_none_or(|(_, least)| connection.in_flight < least);
        if room && better && !connection.closing {
            best = Some((index, connection.in_flight));
        }
    }
    (best, count)
}

/// What carries an HTTP/1 link to a sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// A connection of its own.
    Own,
    /// A stream of an HTTP/2 connection that many links share: their messages leave in one record and one system call.
    Shared,
}

/// The HTTP/1 links to one place as a request finds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Links {
    /// Links in use, without the one for this request.
    pub in_use: usize,
    /// One with a connection of its own is idle.
    pub idle_own: bool,
    /// One on a shared connection is.
    pub idle_shared: bool,
    /// The far end takes shared ones, as far as is known.
    pub may_share: bool,
}

/// The link for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextLink {
    /// An idle one.
    Idle(Carrier),
    /// A new one.
    Open(Carrier),
}

/// Chooses the link for a request: with few others in flight one with a connection of its own, with many a shared one,
/// while idle ones of the other sort wait for better times. No handshake is waited for where something idle will do.
#[must_use]
pub const fn next_link(limits: &PoolLimits, links: Links) -> NextLink {
    let many = links.in_use >= limits.own_links_max;
    match (many && links.may_share, links.idle_own, links.idle_shared) {
        (true, _, true) | (false, false, true) => NextLink::Idle(Carrier::Shared),
        (true, _, false) => NextLink::Open(Carrier::Shared),
        (false, true, _) => NextLink::Idle(Carrier::Own),
        (false, false, false) => NextLink::Open(Carrier::Own),
    }
}

/// Whether a sidecar takes links on shared connections. It is asked until it says no.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sharing {
    refused: Option<Moment>,
}

impl Sharing {
    /// It does not.
    pub const fn refused(&mut self, now: Moment) {
        self.refused = Some(now);
    }

    /// Whether it may.
    #[must_use]
    pub fn is_possible(&self, now: Moment) -> bool {
        self.refused.is_none_or(|at| now.since(at) >= REFUSAL_FOR)
    }
}

/// Whether another connection may be opened beside those open (idle or in use) and opening.
#[must_use]
pub fn may_open(limits: &PoolLimits, open: usize, opening: usize) -> bool {
    open.saturating_add(opening) < limits.connections_max
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::propagate::testing::{Counting, fields};

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn at(after: Duration) -> Moment {
        Moment::ORIGIN + after
    }

    #[test]
    fn announced_idle_times() {
        let check = |line: &str, expected: Option<u64>| {
            assert_eq!(announced_idle(&fields(&[line])), expected.map(Duration::from_secs), "{line}");
        };
        check("Keep-Alive: timeout=5", Some(5));
        check("keep-alive: max=100, Timeout = 15", Some(15));
        check("keep-alive: timeout=0", Some(0));
        check("keep-alive: timeout=99999999999999", Some(86_400));
        check("keep-alive: timeout=-1", None);
        check("keep-alive: timeout=5.5", None);
        check("keep-alive: timeout=999999999999999999999999", None);
        check("keep-alive: timeout", None);
        check("keep-alive: max=5", None);
        check("connection: keep-alive", None);
    }

    #[test]
    fn connections_retire_ahead_of_the_server() {
        let limits = PoolLimits::default();
        let usable = |server: &ServerIdle, now| server.usable_for(&limits, now);
        let mut server = ServerIdle::default();
        assert_eq!(usable(&server, at(ms(0))), ms(60_000));
        server.heard(&fields(&["keep-alive: timeout=5"]));
        assert_eq!(usable(&server, at(ms(0))), ms(4_000));
        // A response without the field says nothing new.
        server.heard(&fields(&["a: b"]));
        server.closed_after(ms(1_000), at(ms(10)));
        assert_eq!(usable(&server, at(ms(10))), ms(800));
        // The shortest one counts, and lasts.
        server.closed_after(ms(3_000), at(ms(20)));
        assert_eq!(usable(&server, at(ms(20))), ms(800));
        // A close right after use is a restart, not an idle time.
        server.closed_after(ms(20), at(ms(30)));
        assert_eq!(usable(&server, at(ms(30))), ms(800));
        assert_eq!(usable(&server, at(ms(20) + OBSERVED_FOR)), ms(4_000));
        server.heard(&fields(&["keep-alive: timeout=0"]));
        assert_eq!(usable(&server, at(ms(40))), ms(0));
        server.heard(&fields(&["keep-alive: timeout=3600"]));
        assert_eq!(usable(&server, at(ms(40) + OBSERVED_FOR)), ms(60_000));
    }

    #[test]
    fn reuse() {
        let limits = PoolLimits { age_max: ms(10_000), ..PoolLimits::default() };
        let life = Life::begin(&limits, at(ms(0)), &mut Counting(0));
        let mut server = ServerIdle::default();
        server.heard(&fields(&["keep-alive: timeout=1"]));
        let check = |idle_since, now, expected| {
            assert_eq!(
                may_reuse(&limits, &server, life, at(ms(idle_since)), at(ms(now))),
                expected,
                "{idle_since} {now}"
            );
        };
        check(100, 100, Reuse::Yes);
        check(100, 899, Reuse::Yes);
        check(100, 900, Reuse::IdleTooLong);
        check(9_900, 9_999, Reuse::Yes);
        check(9_999, 10_000, Reuse::TooOld);
    }

    #[test]
    fn eviction_takes_the_stale_and_the_excess() {
        let limits = PoolLimits { idle_timeout: ms(1_000), idle_max: 3, ..PoolLimits::default() };
        let check = |since: &[u64], now, expected| {
            let since = since.iter().map(|s| at(ms(*s)));
            assert_eq!(evict(&limits, &ServerIdle::default(), since, at(ms(now))), expected);
        };
        check(&[], 5_000, 0);
        check(&[0, 10, 20], 500, 0);
        check(&[0, 10, 20, 30, 40], 500, 2);
        check(&[0, 10, 20], 1_010, 2);
        check(&[0, 10, 20, 30, 40], 9_000, 5);
    }

    #[test]
    fn placement() {
        let limits = PoolLimits { connections_max: 3, streams_max: 10, ..PoolLimits::default() };
        let open = |in_flight| Multiplexed { in_flight, peer_streams_max: u32::MAX, closing: false };
        let check = |connections: &[Multiplexed], opening, expected| {
            assert_eq!(place(&limits, connections.iter().copied(), opening), expected, "{connections:?}");
        };
        let closing = Multiplexed { closing: true, ..open(0) };
        let small = Multiplexed { peer_streams_max: 2, ..open(2) };
        check(&[], 0, Placement::Open);
        check(&[open(9)], 0, Placement::On(0));
        check(&[open(5), open(3), open(3)], 0, Placement::On(1));
        check(&[open(10)], 0, Placement::Open);
        check(&[closing, small], 0, Placement::Open);
        check(&[closing, small], 1, Placement::Full);
        check(&[open(10), open(10), open(10)], 0, Placement::Full);
        check(&[Multiplexed { peer_streams_max: 0, ..open(0) }], 0, Placement::Open);
        assert!(may_open(&limits, 2, 0) && !may_open(&limits, 1, 2) && !may_open(&limits, usize::MAX, 1));
    }

    #[test]
    fn links_are_spread_over_the_peers_workers() {
        let limits = PoolLimits { connections_max: 3, streams_max: 10, links_max: 6, ..PoolLimits::default() };
        let open = |in_flight| Multiplexed { in_flight, peer_streams_max: u32::MAX, closing: false };
        let check = |connections: &[Multiplexed], opening, workers, expected| {
            let found = place_link(&limits, connections.iter().copied(), opening, workers);
            assert_eq!(found, expected, "{connections:?} {opening} {workers}");
        };
        check(&[], 0, 1, Placement::Open);
        check(&[open(5)], 0, 4, Placement::On(0));
        check(&[open(6)], 0, 4, Placement::Open);
        check(&[open(6)], 1, 4, Placement::On(0));
        check(&[open(6)], 0, 1, Placement::On(0));
        check(&[open(9), open(7)], 0, 2, Placement::On(1));
        check(&[open(9), open(5)], 0, 4, Placement::On(1));
        check(&[open(10), open(10)], 0, 1, Placement::Open);
        check(&[open(10), open(10), open(10)], 0, 9, Placement::Full);
        check(&[Multiplexed { closing: true, ..open(0) }], 0, 1, Placement::Open);
    }

    #[test]
    fn few_requests_have_connections_of_their_own_and_many_share() {
        let limits = PoolLimits { own_links_max: 2, ..PoolLimits::default() };
        let check = |in_use, idle_own, idle_shared, expected| {
            let links = Links { in_use, idle_own, idle_shared, may_share: true };
            assert_eq!(next_link(&limits, links), expected, "{links:?}");
        };
        check(0, false, false, NextLink::Open(Carrier::Own));
        check(1, true, true, NextLink::Idle(Carrier::Own));
        check(1, false, true, NextLink::Idle(Carrier::Shared));
        check(2, false, false, NextLink::Open(Carrier::Shared));
        check(2, true, false, NextLink::Open(Carrier::Shared));
        check(2, true, true, NextLink::Idle(Carrier::Shared));
    }

    #[test]
    fn a_sidecar_that_takes_no_shared_links_is_asked_again_later() {
        let mut sharing = Sharing::default();
        assert!(sharing.is_possible(at(ms(0))));
        sharing.refused(at(ms(10)));
        assert!(!sharing.is_possible(at(ms(10))) && !sharing.is_possible(at(ms(9) + REFUSAL_FOR)));
        assert!(sharing.is_possible(at(ms(10) + REFUSAL_FOR)));
    }

    proptest! {
        /// An idle link is taken only where there is one, and nothing shared is opened where that is refused.
        #[test]
        fn next_links_exist(
            in_use in 0_usize..10,
            own_links_max in 0_usize..6,
            [idle_own, idle_shared, may_share] in any::<[bool; 3]>(),
        ) {
            let limits = PoolLimits { own_links_max, ..PoolLimits::default() };
            let next = next_link(&limits, Links { in_use, idle_own, idle_shared, may_share });
            let possible = match next {
                NextLink::Idle(Carrier::Own) => idle_own,
                NextLink::Idle(Carrier::Shared) => idle_shared,
                NextLink::Open(Carrier::Own) => (in_use < own_links_max || !may_share) && !idle_own,
                NextLink::Open(Carrier::Shared) => in_use >= own_links_max && may_share,
            };
            prop_assert!(possible);
        }

        /// A link is placed where there is room, and a connection opened only where one may be.
        #[test]
        fn links_are_placed_where_there_is_room(
            loads in proptest::collection::vec((0_u32..12, 0_u32..12, any::<bool>()), 0..6),
            opening in 0_usize..3,
            workers in 0_usize..6,
        ) {
            let limits = PoolLimits { connections_max: 5, streams_max: 10, links_max: 6, ..PoolLimits::default() };
            let open: Vec<_> = loads
                .iter()
                .map(|&(in_flight, peer_streams_max, closing)| Multiplexed { in_flight, peer_streams_max, closing })
                .collect();
            let room = |one: &Multiplexed| !one.closing && one.in_flight < one.peer_streams_max.min(10);
            match place_link(&limits, open.iter().copied(), opening, workers) {
                Placement::On(index) => prop_assert!(open.get(index).is_some_and(room)),
                Placement::Open if open.iter().any(room) => prop_assert!(opening == 0 && open.len() < workers),
                Placement::Open => prop_assert!(may_open(&limits, open.len(), opening)),
                Placement::Full => prop_assert!(!open.iter().any(room) && open.len() + opening >= 5),
            }
        }

        #[test]
        fn lives_are_spread_and_bounded(age in 0_u64..1_000_000_000, seed in any::<u64>()) {
            let limits = PoolLimits { age_max: ms(age), ..PoolLimits::default() };
            let seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let life = Life::begin(&limits, Moment::ORIGIN, &mut Counting(seed.min(u64::MAX - 1)));
            prop_assert!(!life.is_over(at(ms(age * 4 / 5).saturating_sub(ms(1)))) || age == 0);
            prop_assert!(life.is_over(at(ms(age))));
        }

        /// Never used later than the server announced, nor than the limit.
        #[test]
        fn usable_is_within_all_limits(announced in 0_u64..100_000, closed in 100_u64..100_000, now in 0_u64..200_000) {
            let limits = PoolLimits::default();
            let mut server = ServerIdle::default();
            server.heard(&fields(&[&format!("keep-alive: timeout={announced}")]));
            server.closed_after(ms(closed), at(ms(0)));
            let usable = server.usable_for(&limits, at(ms(now)));
            prop_assert!(usable <= limits.idle_timeout);
            prop_assert!(usable < Duration::from_secs(announced) || announced == 0 && usable.is_zero());
            prop_assert!(usable < ms(closed) || closed == 100 && usable.is_zero());
        }
    }
}
