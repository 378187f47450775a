//! Quantiles of latencies in bounded memory.
//!
//! Buckets whose width is a sixteenth of their power of two, as in HdrHistogram: a quantile is never told too small,
//! and too large by at most 1/16.

const SUB_BUCKETS_LOG2: u32 = 4;
const BUCKETS: usize = 512;

/// A histogram of microseconds.
#[derive(Debug, Clone)]
pub struct Latencies {
    counts: Box<[u32; BUCKETS]>,
    total: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { counts: Box::new([0; BUCKETS]), total: 0 }
    }
}

impl Latencies {
    /// Takes in one latency; above about 70 minutes all are alike.
    pub fn add(&mut self, us: u64) {
        let count = &mut self.counts[bucket(us)];
        *count = count.saturating_add(1);
        self.total += 1;
    }

    /// Takes in all that another has.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts.iter()) {
            *count = count.saturating_add(*more);
        }
        self.total += other.total;
    }

    /// How many there are.
    pub const fn count(&self) -> u64 {
        self.total
    }

    /// A value that `permille` of 1000 latencies do not exceed; `None` without any.
    pub fn quantile(&self, permille: u16) -> Option<u64> {
        let rank = (self.total * u64::from(permille.min(1000))).div_ceil(1000).max(1);
        let mut seen = 0;
        let at = self.counts.iter().position(|&count| {
            seen += u64::from(count);
            seen >= rank
        });
        at.map(upper_bound)
    }
}

fn bucket(us: u64) -> usize {
    let above = (u64::BITS - us.leading_zeros()).saturating_sub(SUB_BUCKETS_LOG2 + 1);
    let index = ((above as usize) << SUB_BUCKETS_LOG2) + (us >> above) as usize;
    index.min(BUCKETS - 1)
}

fn upper_bound(bucket: usize) -> u64 {
    let sub = 1usize << SUB_BUCKETS_LOG2;
    if bucket < 2 * sub {
        return bucket as u64;
    }
    let above = bucket / sub - 1;
    ((((bucket % sub) + sub + 1) as u64) << above) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_never_too_small_and_hardly_too_large() {
        for us in (0..2000).chain([99_999, 1_000_000, 50_000_000, 3_600_000_000]) {
            let mut one = Latencies::default();
            one.add(us);
            let told = one.quantile(950).expect("one value");
            assert!(told >= us && told <= us + us / 16, "{us} told as {told}");
        }
    }

    #[test]
    fn quantiles_count_ranks() {
        let mut all = Latencies::default();
        assert_eq!(all.quantile(500), None);
        (1..=20).for_each(|us| all.add(us));
        assert_eq!([all.quantile(500), all.quantile(950), all.quantile(1000)], [Some(10), Some(19), Some(20)]);
        let twice = all.clone();
        all.merge(&twice);
        assert_eq!((all.count(), all.quantile(500)), (40, Some(10)));
        all.add(u64::MAX);
        assert!(all.quantile(1000) >= Some(3_600_000_000));
    }
}
