//! Weights and biases in integers.

/// Biases stay below this, so that a sum of products and the bias fits 32 bits.
const BIAS_MAX: f64 = (1 << 28) as f64;

/// Weights in 8 bits, symmetric, with one scale for each channel.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Weights {
    pub(super) values: Vec<i8>,
    pub(super) scales: Vec<f32>,
}

/// How a tensor's elements belong to channels: `i / inner % channels`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Channels {
    pub(super) count: usize,
    pub(super) inner: usize,
}

impl Channels {
    /// Along `axis` of a tensor of this shape, if it has any elements.
    pub(super) fn along(dims: &[i64], axis: usize) -> Option<Self> {
        let size = |d: &i64| usize::try_from(*d).ok().filter(|&d| d > 0);
        let product = |dims: &[i64]| dims.iter().try_fold(1usize, |n, d| n.checked_mul(size(d)?));
        product(dims)?;
        Some(Self { count: size(dims.get(axis)?)?, inner: product(dims.get(axis + 1..)?)? })
    }

    /// The channel of an element.
    pub(super) fn of(self, element: usize) -> usize {
        element / self.inner % self.count
    }
}

impl Weights {
    /// From -127 to 127 for each channel, so that zero is zero and negation is exact. Where a bias would not fit its
    /// 32 bits in steps of `input scale * weight scale`, the channel's scale is the larger one that it needs.
    pub(super) fn quantize(values: &[f32], channels: Channels, bias: Option<&[f32]>, input_scale: f32) -> Self {
        let mut largest = vec![0.0f32; channels.count];
        for (ix, value) in values.iter().enumerate() {
            let largest = &mut largest[channels.of(ix)];
            *largest = largest.max(value.abs());
        }
        let scale = |(channel, &largest): (usize, &f32)| {
            let bias = bias.map_or(0.0, |b| f64::from(b[channel].abs()));
            let least = bias / (f64::from(input_scale) * BIAS_MAX);
            let scale = (f64::from(largest) / 127.0).max(least) as f32;
            // Weights that are all zero come out as zero by any scale.
            if scale.is_normal() { scale } else { 1.0 }
        };
        let scales: Vec<f32> = largest.iter().enumerate().map(scale).collect();
        let quantized = |(ix, value): (usize, &f32)| symmetric(*value, scales[channels.of(ix)]);
        Self { values: values.iter().enumerate().map(quantized).collect(), scales }
    }
}

/// One scale for all, symmetric.
pub(super) fn constant(values: &[f32]) -> (Vec<i8>, f32) {
    let largest = values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let scale = largest / 127.0;
    let scale = if scale.is_normal() { scale } else { 1.0 };
    (values.iter().map(|v| symmetric(*v, scale)).collect(), scale)
}

fn symmetric(value: f32, scale: f32) -> i8 {
    (value / scale).round_ties_even().clamp(-127.0, 127.0) as i8
}

/// A bias in steps of `input scale * weight scale`, and these steps.
pub(super) fn bias(values: &[f32], input_scale: f32, weight_scales: &[f32]) -> (Vec<i32>, Vec<f32>) {
    let step = |channel: usize| {
        let step = input_scale * weight_scales[channel.min(weight_scales.len() - 1)];
        if step > 0.0 { step } else { f32::MIN_POSITIVE }
    };
    let steps: Vec<f32> = (0..values.len()).map(step).collect();
    let quantized = values.iter().zip(&steps).map(|(v, s)| (f64::from(*v) / f64::from(*s)).round_ties_even() as i32);
    (quantized.collect(), steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_channel_has_its_own_scale_along_its_axis() {
        let channels = Channels::along(&[2, 3], 1).expect("a matrix");
        let w = Weights::quantize(&[1.27, -2.54, 0.0, 0.64, 1.27, 0.0], channels, None, 1.0);
        assert_eq!(w.values, [127, -127, 0, 64, 64, 0]);
        assert!((w.scales[0] - 0.01).abs() < 1e-8 && (w.scales[1] - 0.02).abs() < 1e-8 && w.scales[2] == 1.0);
        let channels = Channels::along(&[2, 1, 3], 0).expect("a kernel");
        assert_eq!(channels, Channels { count: 2, inner: 3 });
        assert_eq!(Channels::along(&[2, 0], 0), None);
        assert_eq!(Channels::along(&[0, 1 << 60], 1), None);
        assert_eq!(Channels::along(&[1 << 40, 1 << 40], 1), None);
        assert_eq!(Channels::along(&[2], 1), None);
    }

    #[test]
    fn a_bias_has_the_scale_of_the_products() {
        let (values, steps) = bias(&[1.0, -0.03], 0.5, &[0.02, 0.01]);
        assert_eq!((values, steps), (vec![100, -6], vec![0.01, 0.005]));
    }

    #[test]
    fn a_bias_that_dwarfs_its_weights_still_fits() {
        let channels = Channels { count: 2, inner: 1 };
        let large = [1e6, 1e6];
        let w = Weights::quantize(&[1e-9, 0.0], channels, Some(&large), 0.1);
        let (values, _) = bias(&large, 0.1, &w.scales);
        assert!(values.iter().all(|&v| (1 << 27..=(1 << 28) + 64).contains(&v)), "{values:?}");
    }
}
