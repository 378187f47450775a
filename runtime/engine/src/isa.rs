//! Kernels, and which of them a core can run.
//!
//! A kernel computes one tile of a convolution, or one run of a depthwise row. What is around it (windows, blocks,
//! borders) is the same for all instruction sets; how weights lie in memory is the kernel's choice.
//!
//! Kernels trust their caller: pointers hold for the sizes that the call names, plus [`SLACK_BYTES`] that may be read and
//! mean nothing.

#[cfg(target_arch = "arm")]
mod armv7;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avxvnni;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod ymm;

use crate::graph::Range;

/// Bytes beyond a tensor that kernels may read.
pub(crate) const SLACK_BYTES: usize = 256;
/// Most windows of one tile, of any kernel.
pub(crate) const WINDOWS_MAX: usize = 32;

/// Limits and zero point of an output.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    pub(crate) zero_point: u8,
    pub(crate) range: Range,
}

/// One tile: the sums of some windows with one block of output channels.
///
/// A block lies in memory as: bias (i32) of each channel, multiplier (f32) of each channel, then for each run and each
/// group of [`Gemm::depth`] elements of it the weights of all channels, those of one channel side by side. Channels are in
/// the order of [`Gemm::lane`]. Runs that are no multiple of the depth end in weights of zero.
#[derive(Debug)]
pub(crate) struct Tile<'a> {
    /// First byte of each window.
    pub(crate) windows: [*const u8; WINDOWS_MAX],
    /// Where the output of each window begins, at its first channel.
    pub(crate) outputs: [*mut u8; WINDOWS_MAX],
    /// How far from a window's first byte each run of neighbouring bytes begins.
    pub(crate) runs: &'a [usize],
    /// Groups of [`Gemm::depth`] in each run.
    pub(crate) groups: usize,
    /// The block.
    pub(crate) block: *const u8,
    /// The block's first channel, and how many channels of it exist.
    pub(crate) first: usize,
    pub(crate) channels: usize,
    /// Added to all sums of a window.
    pub(crate) plus: Option<[i32; WINDOWS_MAX]>,
    /// Whether the sums are wanted as they are. Outputs are then those of a block by itself: room for an i32 of each of
    /// its channels, in their order.
    pub(crate) raw: bool,
    pub(crate) output: Output,
}

impl<'a> Tile<'a> {
    /// Without windows, outputs and a block as yet.
    pub(crate) const fn new(runs: &'a [usize], output: Output) -> Self {
        Self {
            windows: [std::ptr::null(); WINDOWS_MAX],
            outputs: [std::ptr::null_mut(); WINDOWS_MAX],
            runs,
            groups: 0,
            block: std::ptr::null(),
            first: 0,
            channels: 0,
            plus: None,
            raw: false,
            output,
        }
    }
}

/// How weights lie in a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WeightForm {
    /// As they are.
    I8,
    /// As they are, and none is -128: the sum of two products fits 16 bits.
    #[allow(dead_code, reason = "some instruction sets only")]
    Narrow,
    /// Widened to 16 bits.
    #[allow(dead_code, reason = "some instruction sets only")]
    I16,
}

impl WeightForm {
    pub(crate) const fn bytes(self) -> usize {
        match self {
            Self::I8 | Self::Narrow => 1,
            Self::I16 => 2,
        }
    }
}

/// A kernel for dense sums: convolutions and dense layers.
#[derive(Debug)]
pub(crate) struct Gemm {
    /// Output channels of a block.
    pub(crate) channels: usize,
    /// Elements of a run that are multiplied together.
    pub(crate) depth: usize,
    /// Most windows of a tile, at most [`WINDOWS_MAX`].
    pub(crate) windows: usize,
    pub(crate) weights: WeightForm,
    /// The channel of a block that lies at a place of it.
    pub(crate) lane: fn(usize) -> usize,
    /// Cost of a tile of so many windows: of one group, and of begin and end. In cycles, to compare kernels by.
    pub(crate) cost: fn(windows: usize) -> (f32, f32),
    /// Computes a tile of so many windows (1 to [`Gemm::windows`]).
    pub(crate) tile: unsafe fn(windows: usize, tile: &Tile<'_>),
}

/// One run of depthwise sums: `items` times up to [`Depthwise::lanes`] neighbouring bytes.
///
/// A block lies in memory as: bias (i32) of each lane, multiplier (f32) of each lane, then for each group of
/// [`Depthwise::depth`] taps the weights of all lanes, those of one lane side by side. Lanes are in the order of
/// [`Depthwise::lane`]. Taps that are no multiple of the depth end in weights of zero (and any tap's offset).
#[derive(Debug)]
pub(crate) struct Lanes<'a> {
    /// First byte of the first window.
    pub(crate) window: *const u8,
    /// Bytes from one item's window to the next's.
    pub(crate) step: usize,
    /// How far from a window's first byte each tap lies; a multiple of [`Depthwise::depth`] of them.
    pub(crate) taps: &'a [usize],
    pub(crate) block: *const u8,
    pub(crate) out: *mut u8,
    /// Bytes from one item's output to the next's.
    pub(crate) out_step: usize,
    /// How many.
    pub(crate) items: usize,
    /// Lanes of each item that exist, and of the last.
    pub(crate) lanes: usize,
    pub(crate) lanes_last: usize,
    pub(crate) output: Output,
}

/// Computes a run of depthwise sums.
pub(crate) type Run = unsafe fn(&Lanes<'_>);

/// A kernel for depthwise sums.
#[derive(Debug)]
pub(crate) struct Depthwise {
    /// Bytes of an item.
    pub(crate) lanes: usize,
    /// Taps that are multiplied together.
    pub(crate) depth: usize,
    pub(crate) weights: WeightForm,
    /// The lane that lies at a place of a block.
    pub(crate) lane: fn(usize) -> usize,
    pub(crate) run: Run,
    /// The same where each item lies one tap after the last: two items at a time. Each row of taps, with one of weight zero
    /// at its end, is a few whole groups; after the weights of all rows they follow once more, one place later. And the
    /// columns from which on that pays.
    pub(crate) pairs: Option<(usize, Run)>,
}

/// Kernels of one instruction set.
#[derive(Debug)]
pub(crate) struct Kernels {
    /// Its name, as `SEDGE_ISA` takes it.
    pub(crate) name: &'static str,
    /// What is exclusive-ored with each byte of a tensor in memory: 0x80 where kernels want signed bytes.
    pub(crate) flip: u8,
    /// Several shapes; the cheapest for a layer is taken. The first takes any weights.
    pub(crate) gemms: &'static [Gemm],
    pub(crate) depthwise: &'static Depthwise,
    /// Loops over elements, compiled for this instruction set.
    pub(crate) elementwise: &'static crate::elementwise::Elementwise,
    /// Whether this core has it.
    pub(crate) available: fn() -> bool,
}

/// All of them, the best first.
pub(crate) static ALL: &[&Kernels] = &[
    #[cfg(target_arch = "x86_64")]
    &avx512::VNNI,
    #[cfg(target_arch = "x86_64")]
    &avxvnni::VEX,
    #[cfg(target_arch = "x86_64")]
    &avxvnni::EVEX,
    #[cfg(target_arch = "x86_64")]
    &avx2::KERNELS,
    #[cfg(target_arch = "aarch64")]
    &neon::I8MM,
    #[cfg(target_arch = "aarch64")]
    &neon::DOTPROD,
    #[cfg(target_arch = "aarch64")]
    &neon::NEON,
    #[cfg(target_arch = "arm")]
    &armv7::NEON,
    &portable::KERNELS,
];

/// An instruction set that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this core has no instruction set `{wanted}`; it has {}", available.join(", "))]
pub struct NoIsa {
    /// What was asked for.
    pub wanted: String,
    /// What there is.
    pub available: Vec<&'static str>,
}

/// Names of the instruction sets that kernels exist for and this core has, the best first.
pub fn isas() -> Vec<&'static str> {
    ALL.iter().filter(|kernels| (kernels.available)()).map(|kernels| kernels.name).collect()
}

/// The kernels with this name, or the best.
pub(crate) fn pick(wanted: Option<&str>) -> Result<&'static Kernels, NoIsa> {
    let fits =
        |kernels: &&&'static Kernels| (kernels.available)() && wanted.is_none_or(|wanted| wanted == kernels.name);
    let none = || NoIsa { wanted: wanted.unwrap_or_default().to_owned(), available: isas() };
    ALL.iter().find(fits).copied().ok_or_else(none)
}

/// The order of lanes when nothing speaks for another.
pub(crate) fn in_order(place: usize) -> usize {
    place
}
