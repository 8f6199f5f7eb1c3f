use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::model::Weight;

/// SplitMix64: deterministic and uniform.
struct Seeded(u64);

impl Entropy for Seeded {
    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn weights(weights: &[u32]) -> Shares {
    in_parts(weights, weights.len().max(1))
}

fn in_parts(weights: &[u32], size: usize) -> Shares {
    let part = |weights: &[u32]| Arc::new(Part::new(weights.iter().map(|w| Weight::new(*w).unwrap())));
    Shares::new(weights.chunks(size).map(part))
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Sends `requests`, one each `gap`, to endpoints that answer after their latency; returns how many each got.
fn simulate(shares: &Shares, latencies: &[Duration], requests: u32, gap: Duration, seed: u64) -> Vec<u32> {
    let health: Vec<EndpointHealth> = latencies.iter().map(|_| EndpointHealth::new()).collect();
    let mut entropy = Seeded(seed);
    let mut now = Moment::ORIGIN;
    let mut running: Vec<(Moment, usize, InFlight<&EndpointHealth>)> = Vec::new();
    let mut got = vec![0; latencies.len()];
    for _ in 0..requests {
        running.retain(|(due, index, in_flight)| {
            let over = *due <= now;
            if over {
                in_flight.observe(Outcome::Answered(latencies[*index]), *due);
            }
            !over
        });
        let index = pick(shares, |i| health.get(i), now, &mut entropy).unwrap();
        got[index] += 1;
        running.push((now + latencies[index], index, InFlight::begin(&health[index], now)));
        now = now + gap;
    }
    got
}

#[test]
fn nothing_and_one() {
    let health = EndpointHealth::new();
    let mut entropy = Seeded(1);
    assert_eq!(pick(&Shares::default(), |_| Some(&health), Moment::ORIGIN, &mut entropy), None);
    let one = weights(&[7]);
    assert_eq!(pick(&one, |_| Some(&health), Moment::ORIGIN, &mut entropy), Some(0));
    assert_eq!(pick(&one, |_| None, Moment::ORIGIN, &mut entropy), None);
}

#[test]
fn only_admitted_endpoints_are_picked() {
    let health = EndpointHealth::new();
    let mut entropy = Seeded(2);
    for shares in [weights(&[1; 9]), weights(&[1, 2, 3, 4, 5, 6, 7, 8, 9])] {
        for _ in 0..1000 {
            let picked = pick(&shares, |i| (i == 4).then_some(&health), Moment::ORIGIN, &mut entropy);
            assert_eq!(picked, Some(4));
        }
    }
}

#[test]
fn equal_endpoints_share_equally() {
    let got = simulate(&weights(&[1; 4]), &[ms(5); 4], 20_000, ms(1), 3);
    assert!(got.iter().all(|n| (4_000..6_000).contains(n)), "{got:?}");
}

#[test]
fn weights_are_respected() {
    let got = simulate(&weights(&[9, 1]), &[ms(5); 2], 20_000, ms(1), 4);
    assert!((16_500..19_000).contains(&got[0]), "{got:?}");
    // Heavily loaded too: requests in flight are judged relative to the weight.
    let got = simulate(&weights(&[30, 10, 10]), &[ms(50); 3], 20_000, ms(1), 5);
    assert!((11_000..13_000).contains(&got[0]), "{got:?}");
    assert!(got[1].abs_diff(got[2]) < 1_000, "{got:?}");
}

#[test]
fn a_new_endpoint_is_neither_starved_nor_flooded() {
    // Two seasoned endpoints, at two paces; the third joins without a memory and never answers within the test.
    for pace in [ms(1), ms(500)] {
        let health: Vec<EndpointHealth> = (0..3).map(|_| EndpointHealth::new()).collect();
        health[0].observe(Outcome::Answered(pace), Moment::ORIGIN);
        health[1].observe(Outcome::Answered(pace), Moment::ORIGIN);
        let mut entropy = Seeded(6);
        let mut got = [0_u32; 3];
        for _ in 0..3_000 {
            let index = pick(&weights(&[1; 3]), |i| health.get(i), Moment::ORIGIN, &mut entropy).unwrap();
            got[index] += 1;
            health[index].begin(Moment::ORIGIN);
        }
        assert!((800..1_200).contains(&got[2]), "{pace:?}: {got:?}");
        assert!(got[2] <= got[0].max(got[1]) + 50, "{pace:?}: {got:?}");
    }
}

#[test]
fn a_refusing_endpoint_attracts_nothing_and_is_asked_again_later() {
    let health = [EndpointHealth::new(), EndpointHealth::new()];
    let mut entropy = Seeded(7);
    let mut refused = Vec::new();
    let mut now = Moment::ORIGIN;
    for _ in 0..12_000 {
        let index = pick(&weights(&[1; 2]), |i| health.get(i), now, &mut entropy).unwrap();
        if index == 0 {
            refused.push(now);
            health[0].observe(Outcome::Failed(Duration::from_micros(50)), now);
        } else {
            health[1].observe(Outcome::Answered(ms(2)), now);
        }
        now = now + ms(10);
    }
    // 1 s fades to 2 ms in about 31 s: after the first refusals about one probe in that time, over 120 s.
    assert!((3..=6).contains(&refused.len()), "{}", refused.len());
}

/// One of two endpoints hangs: it takes connections and never answers, its callers leave after two seconds.
#[test]
fn a_hung_endpoint_does_not_attract_the_traffic() {
    let health = [EndpointHealth::new(), EndpointHealth::new()];
    let mut entropy = Seeded(8);
    let mut now = Moment::ORIGIN;
    let mut running: Vec<(Moment, bool, InFlight<&EndpointHealth>)> = Vec::new();
    let (mut to_hung, mut all) = (0, 0);
    for request in 0..24_000_u32 {
        let hangs = request >= 2_000;
        running.retain(|(due, answered, in_flight)| {
            let over = *due <= now;
            if over && *answered {
                in_flight.observe(Outcome::Answered(ms(5)), *due);
            } else if over {
                in_flight.abandon(*due);
            }
            !over
        });
        let index = pick(&weights(&[1; 2]), |i| health.get(i), now, &mut entropy).unwrap();
        let answered = index == 1 || !hangs;
        let until = if answered { ms(5) } else { ms(2_000) };
        running.push((now + until, answered, InFlight::begin(&health[index], now)));
        if hangs {
            all += 1;
            to_hung += u32::from(index == 0);
        }
        now = now + ms(5);
    }
    // Over 110 s: those on their way when it hangs, and a few that ask again each time the memory has faded.
    assert!(to_hung * 50 < all, "{to_hung} of {all} requests went to an endpoint that never answers");
}

#[test]
fn who_leaves_early_makes_nothing_look_fast_or_slow() {
    let health = EndpointHealth::new();
    InFlight::begin(&health, Moment::ORIGIN).observe(Outcome::Answered(ms(10)), Moment::ORIGIN + ms(10));
    let at = Moment::ORIGIN + ms(11);
    InFlight::begin(&health, Moment::ORIGIN + ms(10)).abandon(at);
    assert!((ms(9)..=ms(10)).contains(&health.latency(at).unwrap()));
    InFlight::begin(&health, Moment::ORIGIN).abandon(Moment::ORIGIN + ms(500));
    assert_eq!(health.latency(Moment::ORIGIN + ms(500)), Some(ms(500)));
}

#[test]
fn peaks_count_at_once_and_fade() {
    let health = EndpointHealth::new();
    assert_eq!(health.latency(Moment::ORIGIN), None);
    let at = |after: Duration| Moment::ORIGIN + after;
    let expect = |now: Moment, low: u64, high: u64| {
        let latency = health.latency(now).unwrap();
        assert!((ms(low)..=ms(high)).contains(&latency), "{latency:?} is not in {low}..={high} ms");
    };
    health.observe(Outcome::Answered(ms(10)), at(ms(0)));
    expect(at(ms(0)), 10, 10);
    health.observe(Outcome::Answered(ms(100)), at(ms(1)));
    expect(at(ms(1)), 100, 100);
    health.observe(Outcome::Answered(ms(10)), at(ms(2)));
    expect(at(ms(2)), 99, 100);
    health.observe(Outcome::Unknown, at(ms(2)));
    health.observe(Outcome::Answered(ms(10)), at(LATENCY_FADES_IN));
    expect(at(LATENCY_FADES_IN), 40, 46);
    expect(at(LATENCY_FADES_IN * 2), 14, 17);
    expect(Moment::from_nanos(u64::MAX), 0, 1);
    // A moment before the last update is as good as the last update.
    expect(at(ms(0)), 40, 46);
}

#[test]
fn guards_count_exactly() {
    let health = EndpointHealth::new();
    {
        let guard = InFlight::begin(&health, Moment::ORIGIN);
        let _other = InFlight::begin(&health, Moment::ORIGIN);
        guard.observe(Outcome::Answered(ms(1)), Moment::ORIGIN);
        guard.observe(Outcome::Failed(ms(1)), Moment::ORIGIN);
        assert_eq!(health.latency(Moment::ORIGIN), Some(ms(1)), "only the first word counts");
        assert_eq!(health.in_flight(), 2);
    }
    assert_eq!(health.in_flight(), 0);
    health.end();
    assert_eq!(health.in_flight(), 0, "an end without a begin must not wrap");
}

proptest! {
    #[test]
    fn a_slow_endpoint_gets_less_than_half_its_share_and_all_get_some(
        count in 2_usize..12, slow in 0_usize..12, factor in 4_u32..200, seed in any::<u64>(),
    ) {
        let slow = slow % count;
        let latencies: Vec<Duration> = (0..count).map(|i| if i == slow { ms(2) * factor } else { ms(2) }).collect();
        // 60 s of traffic, so that even the slowest fades into favour again.
        let got = simulate(&weights(&vec![1; count]), &latencies, 6_000, ms(10), seed);
        let fair = 6_000 / u32::try_from(count).unwrap();
        prop_assert!(got[slow] < fair / 2, "{got:?}");
        prop_assert!(got.iter().all(|n| *n > 0), "{got:?}");
    }

    #[test]
    fn total_and_in_range(
        list in proptest::collection::vec(1_u32..=Weight::MAX, 0..40), seed in any::<u64>(), now in any::<u64>(),
        events in proptest::collection::vec((any::<u64>(), any::<u64>(), 0_u8..5), 0..60),
    ) {
        let shares = weights(&list);
        let health: Vec<EndpointHealth> = list.iter().map(|_| EndpointHealth::new()).collect();
        let mut entropy = Seeded(seed);
        for (at, took, what) in events {
            let Some(cell) = health.get(usize::try_from(at).unwrap() % list.len().max(1)) else { continue };
            let (at, took) = (Moment::from_nanos(at), Duration::from_nanos(took));
            match what {
                0 => cell.begin(at),
                1 => cell.end(),
                2 => cell.observe(Outcome::Failed(took), at),
                3 => cell.observe(Outcome::Abandoned(took), at),
                _ => cell.observe(Outcome::Answered(took), at),
            }
        }
        let asked = RefCell::new(Vec::new());
        let look = |i: usize| { asked.borrow_mut().push(i); health.get(i) };
        let picked = pick(&shares, look, Moment::from_nanos(now), &mut entropy);
        prop_assert_eq!(picked.is_some(), !list.is_empty());
        prop_assert!(picked.is_none_or(|i| i < list.len()));
        prop_assert!(asked.borrow().iter().all(|i| *i < list.len().max(1)), "an index out of range was asked for");
    }

    /// Goal: how a list is divided is nobody's business.
    #[test]
    fn parts_leave_no_trace(
        list in proptest::collection::vec(1_u32..4, 1..40), size in 1_usize..40, seed in any::<u64>(),
    ) {
        let (whole, parts) = (weights(&list), in_parts(&list, size));
        let (mut one, mut other) = (Seeded(seed), Seeded(seed));
        for _ in 0..20 {
            let first = whole.draw(&mut one);
            prop_assert_eq!(first, parts.draw(&mut other));
            let first = first.unwrap();
            prop_assert!(first < list.len());
            prop_assert_eq!(whole.draw_other(first, &mut one), parts.draw_other(first, &mut other));
        }
        let mean = list.iter().sum::<u32>() as f64 / list.len() as f64;
        for (index, weight) in list.iter().enumerate() {
            let expected = f64::from(*weight) / mean;
            prop_assert!((whole.relative(index) - expected).abs() < 1e-9 && (parts.relative(index) - expected).abs() < 1e-9);
            prop_assert_eq!(parts.place(index), Some((index / size, index % size)));
        }
    }

    #[test]
    fn the_same_chance_gives_the_same_pick(list in proptest::collection::vec(1_u32..100, 1..20), seed in any::<u64>()) {
        let shares = weights(&list);
        let health: Vec<EndpointHealth> = list.iter().map(|_| EndpointHealth::new()).collect();
        let draw = |seed| pick(&shares, |i| health.get(i), Moment::ORIGIN, &mut Seeded(seed));
        prop_assert_eq!(draw(seed), draw(seed));
    }
}
