//! Which endpoint receives the next request (B3): power of two choices on peak EWMA latency and requests in flight.
//!
//! Two endpoints are drawn, the one that is expected to answer sooner is taken. Comparing two is almost as good as
//! comparing all, costs the same for three endpoints and for three thousand, and many proxies that decide alone do not
//! all rush to the same best endpoint. Latency is remembered as its recent *peak*: a slow answer counts at once, a fast
//! one only as the memory of the slow one fades (see [`EndpointHealth`]).
//!
//! Left out: ejection of failing endpoints, locality and consistent hashing, which are policies of their own.

mod health;
mod shares;

pub use health::{EndpointHealth, InFlight, LATENCY_FADES_IN, LATENCY_OF_FAILURE, Outcome};
pub use shares::{Part, Shares};

use crate::entropy::Entropy;
use crate::time::Moment;

/// Picks an endpoint, as an index below `shares.len()`; `None` if there is none that `health` admits.
///
/// `health` returns `None` for an endpoint that must not be picked now, for example one that this request has tried
/// already. Nothing is counted here: call [`EndpointHealth::begin`] for the endpoint used. Allocates nothing; costs two
/// draws unless the endpoints drawn are not admitted.
///
/// With equal weights the two drawn are different, so a slow endpoint is left alone until the memory of its latency has
/// faded. With different weights both draws follow them, and a pair of one is allowed after a second try: else of two
/// endpoints, 9 to 1, the faster would always win and the weights would mean nothing.
pub fn pick<'a>(
    shares: &Shares,
    health: impl Fn(usize) -> Option<&'a EndpointHealth>,
    now: Moment,
    entropy: &mut impl Entropy,
) -> Option<usize> {
    let first = shares.draw(entropy)?;
    let second = shares.draw_other(first, entropy);
    match (health(first), health(second)) {
        (Some(a), Some(b)) => {
            let second_is_sooner =
                first != second && sooner((b, shares.relative(second)), (a, shares.relative(first)), now);
            Some(if second_is_sooner { second } else { first })
        }
        (Some(_), None) => Some(first),
        (None, Some(_)) => Some(second),
        // Rare (retries): any admitted one, from a drawn start so that neighbours do not inherit all of it.
        (None, None) => (first..shares.len()).chain(0..first).find(|i| health(*i).is_some()),
    }
}

/// Whether `a` is expected to answer strictly sooner than `b`; each with its weight relative to the mean.
///
/// An endpoint not measured yet is taken to be as fast as the one it is compared with. So it gets a fair share at once,
/// whatever is normal for this service, and its requests in flight keep it from being flooded.
fn sooner(a: (&EndpointHealth, f64), b: (&EndpointHealth, f64), now: Moment) -> bool {
    let load = |(health, relative): (&EndpointHealth, f64)| 1.0 + f64::from(health.in_flight()) / relative;
    let (latency_a, latency_b) = match (a.0.faded_nanos(now), b.0.faded_nanos(now)) {
        (Some(a), Some(b)) => (a, b),
        (Some(known), None) | (None, Some(known)) => (known, known),
        (None, None) => (1.0, 1.0),
    };
    latency_a * load(a) < latency_b * load(b)
}

#[cfg(test)]
mod tests;
