//! Medians, quantiles and the interval of a ratio.

/// Resamples of one bootstrap: enough that the ends of a 95% interval do not move in the second digit.
const RESAMPLES: usize = 10_000;

/// A ratio of two medians' rounds, and where it lies with 95% confidence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// Median over the rounds.
    pub median: f64,
    /// 2.5% of the resampled medians are below.
    pub low: f64,
    /// 2.5% of the resampled medians are above.
    pub high: f64,
}

/// The middle value, or the mean of both middle ones; none of nothing.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.get(sorted.len() / 2)?;
    let lower = sorted.get((sorted.len() - 1) / 2)?;
    Some((lower + upper) / 2.0)
}

/// The smallest of the sorted values that at least `permille` of them do not exceed.
#[must_use]
pub fn quantile(sorted: &[u32], permille: usize) -> Option<u32> {
    let rank = (sorted.len() * permille).div_ceil(1000).max(1);
    sorted.get(rank - 1).copied()
}

/// Ratio of what was measured in the same rounds. Rounds are interleaved, so slow drift of the machine meets both sides
/// of a pair. The bootstrap's seed is fixed: the same rounds give the same interval.
#[must_use]
pub fn ratio(ours: &[f64], theirs: &[f64]) -> Option<Ratio> {
    let pairs: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
    let mut random = fastrand::Rng::with_seed(1);
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .filter_map(|_| {
            let drawn: Vec<f64> =
                pairs.iter().filter_map(|_| pairs.get(random.usize(..pairs.len())).copied()).collect();
            median(&drawn)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    let tail = medians.len() / 40;
    Some(Ratio { median: median(&pairs)?, low: *medians.get(tail)?, high: *medians.get(medians.len() - 1 - tail)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle_or_between_the_two_middle_ones() {
        let check = |values: &[f64], expected| assert_eq!(median(values), expected, "{values:?}");
        check(&[], None);
        check(&[3.0], Some(3.0));
        check(&[5.0, 1.0, 3.0], Some(3.0));
        check(&[4.0, 1.0, 3.0, 2.0], Some(2.5));
    }

    #[test]
    fn quantile_is_by_nearest_rank() {
        let hundred: Vec<u32> = (1..=100).collect();
        let check = |sorted: &[u32], permille, expected| assert_eq!(quantile(sorted, permille), expected);
        check(&[], 500, None);
        check(&[7], 0, Some(7));
        check(&[7], 990, Some(7));
        check(&hundred, 500, Some(50));
        check(&hundred, 990, Some(99));
        check(&hundred, 1000, Some(100));
    }

    #[test]
    fn ratio_pairs_the_rounds() {
        // Both sides double from round to round, the ratio does not.
        let steady = ratio(&[1.0, 2.0, 4.0, 8.0, 16.0], &[2.0, 4.0, 8.0, 16.0, 32.0]).unwrap();
        assert_eq!(steady, Ratio { median: 0.5, low: 0.5, high: 0.5 });
    }

    #[test]
    fn interval_holds_the_median_and_widens_with_the_spread() {
        let ones = [1.0; 9];
        let narrow = ratio(&[0.98, 0.99, 1.0, 1.01, 1.02, 1.0, 1.0, 0.99, 1.01], &ones).unwrap();
        let wide = ratio(&[0.5, 0.7, 1.0, 1.4, 2.0, 1.0, 1.2, 0.8, 1.1], &ones).unwrap();
        for one in [narrow, wide] {
            assert!(one.low <= one.median && one.median <= one.high, "{one:?}");
        }
        assert!(wide.high - wide.low > 5.0 * (narrow.high - narrow.low), "{wide:?} {narrow:?}");
    }

    #[test]
    fn no_rounds_no_ratio() {
        assert_eq!(ratio(&[], &[]), None);
    }
}
