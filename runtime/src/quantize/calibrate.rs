//! From the values that a tensor took to the range that 8 bits are spread over.

use sedge_processor_sdk::Quantization;

/// Enough that a threshold between two bins costs less than a quantum.
pub(super) const BINS: usize = 2048;

/// How the range of an activation is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Method {
    /// The whole range: nothing is cut off.
    #[default]
    MinMax,
    /// At each end at most 100 less this many percent of the values are cut off.
    Percentile(f64),
    /// The threshold at which the 8-bit distribution tells least of another than the real one, as S. Migacz describes
    /// in "8-bit Inference with TensorRT" (GPU Technology Conference 2017).
    Entropy,
}

/// From the smallest to the largest value, and always zero: padding and dead units must cost nothing.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Range {
    pub(super) low: f32,
    pub(super) high: f32,
}

impl Range {
    pub(super) fn widen(&mut self, values: &[f32]) {
        for &value in values {
            self.low = self.low.min(value);
            self.high = self.high.max(value);
        }
    }

    /// Signed 8 bits, asymmetric. A tensor that is always zero, or too small for a scale of normal size, gets scale 1.
    pub(super) fn quantization(self) -> Quantization {
        // In double: the width of all floats is no float.
        let width = f64::from(self.high) - f64::from(self.low);
        let scale = (width / 255.0) as f32;
        if !scale.is_normal() {
            return Quantization { scale: 1.0, zero_point: 0 };
        }
        let zero_point = (-128.0 - f64::from(self.low) / f64::from(scale)).round_ties_even();
        Quantization { scale, zero_point: zero_point.clamp(-128.0, 127.0) as i32 }
    }
}

/// How often values fall into each of equal parts of a range.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Histogram {
    range: Range,
    counts: Vec<u64>,
}

impl Histogram {
    pub(super) fn new(range: Range, bins: usize) -> Self {
        Self { range, counts: vec![0; bins] }
    }

    pub(super) fn add(&mut self, values: &[f32]) {
        let last = self.counts.len() - 1;
        let (low, width) = (f64::from(self.range.low), self.bin_width());
        for &value in values {
            let bin = if width > 0.0 { ((f64::from(value) - low) / width) as usize } else { 0 };
            self.counts[bin.min(last)] += 1;
        }
    }

    fn bin_width(&self) -> f64 {
        (f64::from(self.range.high) - f64::from(self.range.low)) / self.counts.len() as f64
    }

    /// The range without the outermost values, `100 - percent` of each hundred at either end.
    pub(super) fn percentile(&self, percent: f64) -> Range {
        let total: u64 = self.counts.iter().sum();
        let cut = (total as f64 * (100.0 - percent) / 100.0).floor() as u64;
        let spared = |counts: &mut dyn Iterator<Item = &u64>| {
            let mut sum = 0;
            counts
                .take_while(|&&count| {
                    sum += count;
                    sum <= cut
                })
                .count()
        };
        let (below, above) = (spared(&mut self.counts.iter()), spared(&mut self.counts.iter().rev()));
        let width = self.bin_width();
        let low = f64::from(self.range.low) + below as f64 * width;
        let high = f64::from(self.range.high) - above as f64 * width;
        Range { low: low.min(0.0) as f32, high: high.max(0.0) as f32 }
    }

    /// The range cut at the magnitude whose 8-bit form loses least.
    ///
    /// Of a tensor with one sign all 256 values are for that side, else 128.
    pub(super) fn entropy(&self) -> Range {
        let one_sided = self.range.low == 0.0 || self.range.high == 0.0;
        let magnitudes = self.magnitudes();
        let kept = best_threshold(&magnitudes, if one_sided { 256 } else { 128 });
        let largest = self.range.high.max(-self.range.low);
        let threshold = (f64::from(largest) * kept as f64 / magnitudes.len() as f64) as f32;
        Range { low: self.range.low.max(-threshold), high: self.range.high.min(threshold) }
    }

    /// The same counts by distance from zero, up to the farther end.
    fn magnitudes(&self) -> Vec<u64> {
        let bins = self.counts.len();
        let largest = f64::from(self.range.high.max(-self.range.low));
        let mut magnitudes = vec![0; bins];
        for (ix, &count) in self.counts.iter().enumerate() {
            let middle = f64::from(self.range.low) + (ix as f64 + 0.5) * self.bin_width();
            let bin = if largest > 0.0 { (middle.abs() / largest * bins as f64) as usize } else { 0 };
            magnitudes[bin.min(bins - 1)] += count;
        }
        // Zero is exact at any threshold. Behind a Relu it is most of the values, and would drown the rest.
        magnitudes[0] = magnitudes.get(1).copied().unwrap_or(magnitudes[0]);
        magnitudes
    }
}

/// How many of the bins to keep so that `levels` values tell most of them.
fn best_threshold(counts: &[u64], levels: usize) -> usize {
    let candidates = levels.min(counts.len())..=counts.len();
    let divergences = candidates.map(|kept| (kept, divergence(counts, kept, levels)));
    // Of equals the widest: cutting must gain something.
    divergences.min_by(|(m, a), (n, b)| a.total_cmp(b).then(n.cmp(m))).map_or(counts.len(), |(kept, _)| kept)
}

/// Kullback-Leibler divergence of the first `kept` bins in `levels` values from the same bins with everything beyond
/// them gathered in the last, less what chance alone would make of it.
///
/// Few values in many bins differ from their average by chance, by half a nat for each value and bin more than there
/// are levels (G. Miller, "Note on the bias of information estimates", 1955); uncorrected, a small set of samples
/// would always be cut to one bin for each level.
fn divergence(counts: &[u64], kept: usize, levels: usize) -> f64 {
    /// Stands for a probability of nothing, so that a bin which only the reference has costs much and not infinitely.
    const NEARLY_NOTHING: f64 = 1e-9;
    let (inside, outside) = counts.split_at(kept);
    let beyond: u64 = outside.iter().sum();
    let reference = |ix: usize| inside[ix] + if ix + 1 == kept { beyond } else { 0 };
    let (total, total_inside): (u64, u64) = (counts.iter().sum(), inside.iter().sum());
    if total_inside == 0 {
        return f64::INFINITY;
    }
    let (mut sum, mut by_chance) = (0.0, 0);
    for level in 0..levels {
        // One value stands for these bins; its share is spread evenly over those that are not empty.
        let bins = level * kept / levels..(level + 1) * kept / levels;
        let (count, filled) =
            inside[bins.clone()].iter().fold((0, 0u64), |(sum, filled), &c| (sum + c, filled + u64::from(c > 0)));
        by_chance += filled.saturating_sub(1);
        for ix in bins {
            let p = reference(ix) as f64 / total as f64;
            let q = if inside[ix] > 0 { count as f64 / filled as f64 / total_inside as f64 } else { 0.0 };
            if p > 0.0 {
                sum += p * (p / q.max(NEARLY_NOTHING)).ln();
            }
        }
    }
    sum - by_chance as f64 / (2.0 * total as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(counts: &[u64], low: f32, high: f32) -> Histogram {
        Histogram { range: Range { low, high }, counts: counts.to_vec() }
    }

    #[test]
    fn a_range_spans_all_values_and_zero() {
        let mut range = Range::default();
        range.widen(&[2.0, 5.1]);
        assert_eq!(range, Range { low: 0.0, high: 5.1 });
        range.widen(&[-5.1]);
        let q = range.quantization();
        assert!((q.scale - 0.04).abs() < 1e-7, "{q:?}");
        // -128 + 5.1 / 0.04 = -0.5, a tie.
        assert_eq!(q.zero_point, 0);
    }

    #[test]
    fn scales_of_one_sided_and_degenerate_ranges() {
        let q = |low, high| {
            let q = Range { low, high }.quantization();
            (q.scale, q.zero_point)
        };
        assert_eq!(q(0.0, 255.0), (1.0, -128));
        assert_eq!(q(-255.0, 0.0), (1.0, 127));
        assert_eq!(q(0.0, 0.0), (1.0, 0));
        assert_eq!(q(0.0, 1e-40), (1.0, 0));
        let (scale, zero_point) = q(-f32::MAX, f32::MAX);
        assert!(scale.is_finite() && zero_point == 0, "{scale} {zero_point}");
    }

    #[test]
    fn values_fall_into_their_bins() {
        let mut histogram = Histogram::new(Range { low: -2.0, high: 2.0 }, 4);
        histogram.add(&[-2.0, -1.5, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0]);
        assert_eq!(histogram.counts, [2, 1, 2, 3]);
        let mut nothing = Histogram::new(Range::default(), 4);
        nothing.add(&[0.0, 0.0]);
        assert_eq!(nothing.counts, [2, 0, 0, 0]);
    }

    #[test]
    fn a_percentile_cuts_at_most_its_share_at_each_end() {
        // 10 of 1000 are 1 %: two bins at either end.
        let histogram = filled(&[4, 6, 700, 280, 7, 3], -2.0, 4.0);
        assert_eq!(histogram.percentile(99.0), Range { low: 0.0, high: 2.0 });
        assert_eq!(histogram.percentile(99.6), Range { low: -1.0, high: 3.0 });
        assert_eq!(histogram.percentile(100.0), Range { low: -2.0, high: 4.0 });
        // Zero stays, whatever is cut.
        assert_eq!(filled(&[1, 999], -1.0, 1.0).percentile(90.0), Range { low: 0.0, high: 1.0 });
    }

    #[test]
    fn the_divergence_is_that_of_a_computation_by_hand() {
        // Two bins in one value: P = (3/4, 1/4), Q = (1/2, 1/2).
        // One bin more than values, and four counts: 1/8 is chance.
        let expected = 0.75 * 1.5f64.ln() + 0.25 * 0.5f64.ln() - 0.125;
        assert!((divergence(&[3, 1], 2, 1) - expected).abs() < 1e-12);
        // Cut after two of four: P = (1/2, 1/2) with both outliers in the last, Q = (2/3, 1/3) as it was inside.
        let expected = 0.5 * (0.5f64 / (4.0 / 6.0)).ln() + 0.5 * (0.5f64 / (2.0 / 6.0)).ln();
        assert!((divergence(&[4, 2, 1, 1], 2, 2) - expected).abs() < 1e-12);
        // An empty bin takes no part: P = Q.
        assert!(divergence(&[5, 0, 5, 0], 4, 2).abs() < 1e-12);
    }

    #[test]
    fn entropy_cuts_a_lonely_outlier_and_keeps_a_full_range() {
        let mut lonely = vec![0u64; BINS];
        (0..1024).for_each(|ix| lonely[ix] = 10_000 - 9 * ix as u64 + (ix as u64 * 7919) % 400);
        lonely[BINS - 1] = 1;
        let cut = filled(&lonely, 0.0, 8.0).entropy();
        assert!((3.5..6.0).contains(&cut.high) && cut.low == 0.0, "{cut:?}");
        let even = filled(&vec![10; BINS], 0.0, 8.0).entropy();
        assert_eq!(even, Range { low: 0.0, high: 8.0 });
        // Both signs: the shorter side is not lengthened.
        let both = filled(&vec![10; BINS], -1.0, 3.0).entropy();
        assert!(both.low == -1.0 && both.high > 1.0 && both.high <= 3.0, "{both:?}");
    }
}
