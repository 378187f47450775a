//! Depthwise convolutions, plane by plane or pixel by pixel, as the tensor lies.
//!
//! A plane is first copied to where it has room around it, so that no window needs to know of borders. Where windows move
//! by more than one, rows and columns are sorted by what is left when they are divided by the stride: each tap then reads
//! neighbours for neighbouring windows. And rows lie so far apart in the copy that the windows of all rows are one stretch:
//!
//! ```text
//! out[y · pitch + x] = bias + Σ weight[tap] · copy[offset[tap] + y · pitch + x]
//! ```
//! The few sums between two rows mean nothing and are not copied out.
//!
//! Where the channels of a pixel lie side by side, so do its sums, and each window has a list of the taps that lie inside.

/// Sums that are made together: enough to keep several multiplications under way.
const BLOCK: usize = 64;
/// Sums before they are copied out; they and what they are made of stay in the first cache.
const STRETCH: usize = 16 * BLOCK;

/// Sizes of a plane, as height and width.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Planes {
    pub(super) input: [usize; 2],
    pub(super) output: [usize; 2],
    pub(super) kernel: [usize; 2],
    pub(super) stride: [usize; 2],
    pub(super) dilation: [usize; 2],
    /// Padding above and on the left.
    pub(super) before: [usize; 2],
    /// No result is less than the first, or more than the second.
    pub(super) limits: (f32, f32),
}

/// One plane after the other.
pub(super) struct PlaneByPlane<'a> {
    planes: &'a Planes,
    /// Elements from one row to the next, and rows, of each part of the copy: one for each rest of rows and columns.
    pitch: usize,
    rows: usize,
    copy: Vec<f32>,
    taps: Vec<(usize, f32)>,
    sums: Vec<f32>,
    kernel: PlaneKernel,
}

/// Makes sums from a place of the copy on.
type PlaneKernel = unsafe fn(copy: &[f32], taps: &[(usize, f32)], bias: f32, limits: (f32, f32), sums: &mut [f32]);

impl<'a> PlaneByPlane<'a> {
    pub(super) fn new(planes: &'a Planes) -> Self {
        // The farthest that a tap reaches, in steps of the stride.
        let reach = |axis: usize| (planes.kernel[axis] - 1) * planes.dilation[axis] / planes.stride[axis];
        let (rows, pitch) = (planes.output[0] + reach(0), planes.output[1] + reach(1));
        let parts = planes.stride[0] * planes.stride[1];
        let mut taps = Vec::with_capacity(planes.kernel[0] * planes.kernel[1]);
        for y in 0..planes.kernel[0] {
            for x in 0..planes.kernel[1] {
                let (y, x) = (y * planes.dilation[0], x * planes.dilation[1]);
                let part = (y % planes.stride[0]) * planes.stride[1] + x % planes.stride[1];
                let offset = (part * rows + y / planes.stride[0]) * pitch + x / planes.stride[1];
                taps.push((offset, 0.0));
            }
        }
        // Stretches end in whole blocks, which read a little more.
        let copy = vec![0.0; parts * rows * pitch + STRETCH + pitch];
        Self {
            planes,
            pitch,
            rows,
            copy,
            taps,
            sums: vec![0.0; STRETCH.max(pitch.next_multiple_of(BLOCK))],
            kernel: kernels().0,
        }
    }

    /// Computes a plane.
    pub(super) fn run(&mut self, input: &[f32], weights: &[f32], bias: f32, output: &mut [f32]) {
        self.enter(input);
        self.taps.iter_mut().zip(weights).for_each(|(tap, weight)| tap.1 = *weight);
        let [height, width] = self.planes.output;
        let at_once = (self.sums.len() / self.pitch).max(1);
        for from in (0..height).step_by(at_once) {
            let rows = at_once.min(height - from);
            let sums = &mut self.sums[..(rows * self.pitch).next_multiple_of(BLOCK)];
            // SAFETY: the kernel is one that this core has.
            unsafe { (self.kernel)(&self.copy[from * self.pitch..], &self.taps, bias, self.planes.limits, sums) };
            for (row, out) in output[from * width..][..rows * width].chunks_exact_mut(width).enumerate() {
                out.copy_from_slice(&sums[row * self.pitch..][..width]);
            }
        }
    }

    /// Copies a plane into the room that it has; what is around it stays zero.
    fn enter(&mut self, input: &[f32]) {
        let Planes { input: [_, width], stride: [down, right], before: [top, left], .. } = *self.planes;
        for (y, row) in input.chunks_exact(width).enumerate() {
            let (part, y) = ((y + top) % down, (y + top) / down);
            if y >= self.rows {
                continue;
            }
            for rest in 0..right {
                let start = ((part * right + rest) * self.rows + y) * self.pitch;
                // The first column of the input that belongs here, and where.
                let first = (rest + right - left % right) % right;
                let to = (first + left) / right;
                let out = &mut self.copy[start..][..self.pitch];
                let (Some(out), Some(row)) = (out.get_mut(to..), row.get(first..)) else { continue };
                match right {
                    1 => {
                        let count = out.len().min(row.len());
                        out[..count].copy_from_slice(&row[..count]);
                    }
                    2 => {
                        // In whole pairs, so that it vectorises.
                        out.iter_mut().zip(row.chunks_exact(2)).for_each(|(out, pair)| *out = pair[0]);
                        if let ([last], Some(out)) = (row.chunks_exact(2).remainder(), out.get_mut(row.len() / 2)) {
                            *out = *last;
                        }
                    }
                    _ => out.iter_mut().zip(row.iter().step_by(right)).for_each(|(out, x)| *out = *x),
                }
            }
        }
    }
}

/// One pixel after the other, with all of its channels.
pub(super) struct PixelByPixel<'a> {
    planes: &'a Planes,
    /// Channels of each tap.
    weights: &'a [f32],
    bias: &'a [f32],
    /// Where the taps of a window lie in the input and among the weights.
    taps: Vec<(usize, usize)>,
    kernel: PixelKernel,
}

/// Makes the sums of all channels of a pixel.
type PixelKernel = unsafe fn(input: &[f32], taps: &[(usize, usize)], of: &PixelByPixel<'_>, out: &mut [f32]);

impl<'a> PixelByPixel<'a> {
    pub(super) fn new(planes: &'a Planes, weights: &'a [f32], bias: &'a [f32]) -> Self {
        let taps = Vec::with_capacity(planes.kernel[0] * planes.kernel[1]);
        Self { planes, weights, bias, taps, kernel: kernels().1 }
    }

    /// Computes a row of an image.
    pub(super) fn row(&mut self, input: &[f32], y: usize, output: &mut [f32]) {
        let planes = self.planes;
        let channels = self.bias.len();
        // Which taps of a window lie inside, and where.
        let inside = |axis: usize, at: usize| {
            (0..planes.kernel[axis]).filter_map(move |tap| {
                let padded = at * planes.stride[axis] + tap * planes.dilation[axis];
                let place = padded.checked_sub(planes.before[axis]).filter(|place| *place < planes.input[axis]);
                place.map(|place| (place, tap))
            })
        };
        for (x, out) in output.chunks_exact_mut(channels).enumerate() {
            self.taps.clear();
            for (row, down) in inside(0, y) {
                let tap = |(column, right): (usize, usize)| {
                    let (pixel, tap) = (row * planes.input[1] + column, down * planes.kernel[1] + right);
                    (pixel * channels, tap * channels)
                };
                self.taps.extend(inside(1, x).map(tap));
            }
            // SAFETY: the kernel is one that this core has.
            unsafe { (self.kernel)(input, &self.taps, self, out) };
        }
    }
}

#[inline(always)]
fn multiply_add<const FUSED: bool>(x: f32, weight: f32, sum: f32) -> f32 {
    if FUSED { x.mul_add(weight, sum) } else { sum + x * weight }
}

/// NaN stays what it is: it must not turn into a sound value.
#[inline(always)]
fn limit(sum: f32, (low, high): (f32, f32)) -> f32 {
    let sum = if sum < low { low } else { sum };
    if sum > high { high } else { sum }
}

#[inline(always)]
fn plane_sums<const FUSED: bool>(copy: &[f32], taps: &[(usize, f32)], bias: f32, limits: (f32, f32), sums: &mut [f32]) {
    for (block, out) in sums.chunks_exact_mut(BLOCK).enumerate() {
        let mut sums = [bias; BLOCK];
        for (offset, weight) in taps {
            let x = &copy[block * BLOCK + offset..][..BLOCK];
            sums.iter_mut().zip(x).for_each(|(sum, x)| *sum = multiply_add::<FUSED>(*x, *weight, *sum));
        }
        out.iter_mut().zip(sums).for_each(|(out, sum)| *out = limit(sum, limits));
    }
}

#[inline(always)]
fn pixel_sums<const FUSED: bool>(input: &[f32], taps: &[(usize, usize)], of: &PixelByPixel<'_>, out: &mut [f32]) {
    let mut from = 0;
    while from + 32 <= out.len() {
        channel_sums::<FUSED, 32>(input, taps, of, from, out);
        from += 32;
    }
    while from + 8 <= out.len() {
        channel_sums::<FUSED, 8>(input, taps, of, from, out);
        from += 8;
    }
    for from in from..out.len() {
        channel_sums::<FUSED, 1>(input, taps, of, from, out);
    }
}

/// Sums of neighbouring channels.
#[inline(always)]
fn channel_sums<const FUSED: bool, const CHANNELS: usize>(
    input: &[f32],
    taps: &[(usize, usize)],
    of: &PixelByPixel<'_>,
    from: usize,
    out: &mut [f32],
) {
    let mut sums = [0.0; CHANNELS];
    sums.copy_from_slice(&of.bias[from..][..CHANNELS]);
    for (place, weight) in taps {
        let (x, weights) = (&input[place + from..][..CHANNELS], &of.weights[weight + from..][..CHANNELS]);
        let pairs = x.iter().zip(weights);
        sums.iter_mut().zip(pairs).for_each(|(sum, (x, w))| *sum = multiply_add::<FUSED>(*x, *w, *sum));
    }
    out[from..][..CHANNELS].iter_mut().zip(sums).for_each(|(out, sum)| *out = limit(sum, of.planes.limits));
}

#[cfg(target_arch = "x86_64")]
fn kernels() -> (PlaneKernel, PixelKernel) {
    #[target_feature(enable = "avx2,fma")]
    fn plane(copy: &[f32], taps: &[(usize, f32)], bias: f32, limits: (f32, f32), sums: &mut [f32]) {
        plane_sums::<true>(copy, taps, bias, limits, sums);
    }
    #[target_feature(enable = "avx2,fma")]
    fn pixel(input: &[f32], taps: &[(usize, usize)], of: &PixelByPixel<'_>, out: &mut [f32]) {
        pixel_sums::<true>(input, taps, of, out);
    }
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        (plane, pixel)
    } else {
        (plane_sums::<false>, pixel_sums::<false>)
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn kernels() -> (PlaneKernel, PixelKernel) {
    // Fused where every core of the target has it: a call of a function for each product would be slow.
    const FUSED: bool = cfg!(target_arch = "aarch64");
    (plane_sums::<FUSED>, pixel_sums::<FUSED>)
}
