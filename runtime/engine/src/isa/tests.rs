//! Each kernel by itself: every shape, every number of windows, the largest products there are. A bias brings one window's
//! sum into the range of a byte, so that a sum that is wrong in any bit yields another byte.

use super::{ALL, Depthwise, Gemm, Kernels, Lanes, Output, SLACK_BYTES, Tile, WINDOWS_MAX, WeightForm};
use crate::bytes::AlignedBytes;
use crate::conv::put;
use crate::graph::Range;
use crate::requantize::requantize;

/// What bytes and weights are.
#[derive(Debug, Clone, Copy)]
enum Of {
    Any,
    /// Each the smallest or the largest.
    Extreme,
    /// All the same: byte in the unsigned domain, and weight.
    All(u8, i8),
}

const KINDS: [Of; 6] = [Of::Any, Of::Extreme, Of::All(0, -128), Of::All(255, -128), Of::All(0, 127), Of::All(255, 127)];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        self.0 >> 33
    }

    fn within(&mut self, low: i64, high: i64) -> i64 {
        low + (self.next() % (high - low + 1) as u64) as i64
    }

    fn byte(&mut self, of: Of) -> u8 {
        match of {
            Of::Any => self.next() as u8,
            Of::Extreme => [0, 255][self.within(0, 1) as usize],
            Of::All(byte, _) => byte,
        }
    }

    fn weight(&mut self, of: Of) -> i8 {
        match of {
            Of::Any => self.next() as i8,
            Of::Extreme => [-128, 127][self.within(0, 1) as usize],
            Of::All(_, weight) => weight,
        }
    }

    fn output(&mut self) -> Output {
        let (a, b) = (self.next() as u8, self.next() as u8);
        let range = if self.within(0, 2) > 0 { Range::FULL } else { Range { low: a.min(b), high: a.max(b) } };
        Output { zero_point: self.next() as u8, range }
    }

    /// Ties are met with halves and quarters.
    fn multiplier(&mut self) -> f32 {
        [1.0, 0.5, 0.25][self.within(0, 2) as usize]
    }

    /// What a bias must be for a sum to become a byte about the middle.
    fn bias(&mut self, sum: i32, multiplier: f32, zero_point: u8) -> i32 {
        let steps = self.within(-20, 275) as f32 - f32::from(zero_point);
        (steps / multiplier) as i32 + self.within(0, 3) as i32 - sum
    }
}

/// What a byte in memory means to a kernel.
fn meaning(byte: u8, flip: u8) -> i32 {
    i32::from(byte ^ flip) - i32::from(flip)
}

fn block(channels: usize, bytes: usize, bias: &[i32], multipliers: &[f32], lane: fn(usize) -> usize) -> AlignedBytes {
    let mut block = AlignedBytes::zeroed(channels * 8 + bytes);
    for place in 0..channels {
        let bytes = block.as_mut_slice();
        bytes[place * 4..][..4].copy_from_slice(&bias[lane(place)].to_ne_bytes());
        bytes[(channels + place) * 4..][..4].copy_from_slice(&multipliers[lane(place)].to_ne_bytes());
    }
    block
}

fn dense(random: &mut Random, gemm: &Gemm, windows: usize, of: Of, kernels: &Kernels) {
    let (runs, groups) = (random.within(1, 3) as usize, random.within(1, 11) as usize);
    let (depth, all) = (gemm.depth, runs * groups * gemm.depth);
    let channels =
        if random.within(0, 1) == 0 { gemm.channels } else { random.within(1, gemm.channels as i64) as usize };
    let run = groups * depth;
    // Windows overlap, and begin at any byte.
    let memory: Vec<u8> = (0..4 * run + 64 + SLACK_BYTES).map(|_| random.byte(of) ^ kernels.flip).collect();
    let starts: Vec<usize> = (0..windows).map(|_| random.within(0, 63) as usize).collect();
    let offsets: Vec<usize> = (0..runs).map(|i| i * (run + 1)).collect();
    let least = if gemm.weights == WeightForm::Narrow { -127 } else { -128 };
    let mut weight = || random.weight(of).max(least);
    let weights: Vec<Vec<i8>> = (0..gemm.channels).map(|_| (0..all).map(|_| weight()).collect()).collect();
    let sum = |window: usize, channel: usize| -> i32 {
        let x = |i: usize| meaning(memory[starts[window] + offsets[i / run] + i % run], kernels.flip);
        (0..all).map(|i| x(i) * i32::from(weights[channel][i])).sum()
    };
    let output = random.output();
    for middle in 0..windows {
        let multipliers: Vec<f32> = (0..gemm.channels).map(|_| random.multiplier()).collect();
        let bias: Vec<i32> =
            (0..gemm.channels).map(|c| random.bias(sum(middle, c), multipliers[c], output.zero_point)).collect();
        let bytes = all * gemm.channels * gemm.weights.bytes();
        let mut block = block(gemm.channels, bytes, &bias, &multipliers, gemm.lane);
        let body = &mut block.as_mut_slice()[gemm.channels * 8..];
        for place in 0..gemm.channels {
            for (i, weight) in weights[(gemm.lane)(place)].iter().enumerate() {
                put(body, (i / depth * gemm.channels + place) * depth + i % depth, *weight, gemm.weights);
            }
        }
        let stride = gemm.channels + 5;
        let plus: [i32; WINDOWS_MAX] = std::array::from_fn(|_| random.within(-300, 300) as i32);
        let added = |window: usize| if middle % 2 == 1 { plus[window] } else { 0 };
        let mut out = vec![0xaa; windows * stride];
        let mut tile = Tile {
            windows: [std::ptr::null(); WINDOWS_MAX],
            outputs: [std::ptr::null_mut(); WINDOWS_MAX],
            runs: &offsets,
            groups,
            block: block.as_slice().as_ptr(),
            first: 2,
            channels,
            plus: (middle % 2 == 1).then_some(plus),
            raw: false,
            output,
        };
        for i in 0..windows {
            tile.windows[i] = memory[starts[i]..].as_ptr();
            tile.outputs[i] = out[i * stride..].as_mut_ptr();
        }
        // SAFETY: memory, block and output are as large as the tile says, and this core has the instructions.
        unsafe { (gemm.tile)(windows, &tile) };
        let mut expected = vec![0xaa; out.len()];
        for (window, expected) in expected.chunks_mut(stride).enumerate() {
            for (c, byte) in expected[2..][..channels].iter_mut().enumerate() {
                let sum = sum(window, c) + bias[c] + added(window);
                *byte = requantize(sum, multipliers[c], output.zero_point, output.range) ^ kernels.flip;
            }
        }
        assert_eq!(
            out, expected,
            "{}: {windows} windows of {channels} of {} channels, {runs} runs of {groups} groups of {depth}, {of:?}",
            kernels.name, gemm.channels
        );
        let mut sums = vec![0x5555_5555; (windows + 1) * gemm.channels];
        let all = windows * gemm.channels;
        tile.raw = true;
        for (out, sums) in tile.outputs.iter_mut().zip(sums[..all].chunks_mut(gemm.channels)) {
            *out = sums.as_mut_ptr().cast();
        }
        // SAFETY: as above; there is room for all sums of each window.
        unsafe { (gemm.tile)(windows, &tile) };
        for (at, found) in sums[..all].iter().enumerate() {
            let (window, c) = (at / gemm.channels, at % gemm.channels);
            let expected = sum(window, c) + bias[c] + added(window);
            assert!(c >= channels || *found == expected, "{}: raw sum of channel {c}, {of:?}", kernels.name);
        }
        assert!(sums[all..].iter().all(|untouched| *untouched == 0x5555_5555), "{}: beyond the block", kernels.name);
    }
}

fn depthwise(random: &mut Random, kernel: &Depthwise, count: usize, of: Of, kernels: &Kernels) {
    let (lanes, depth) = (kernel.lanes, kernel.depth);
    let items = random.within(1, 4) as usize;
    let lanes_last = random.within(1, lanes as i64) as usize;
    let memory: Vec<u8> = (0..items * lanes + 64 + SLACK_BYTES).map(|_| random.byte(of) ^ kernels.flip).collect();
    let mut taps: Vec<usize> = (0..count).map(|_| random.within(0, 63) as usize).collect();
    taps.resize(count.next_multiple_of(depth), taps[0]);
    let weights: Vec<Vec<i8>> = (0..lanes).map(|_| (0..count).map(|_| random.weight(of)).collect()).collect();
    let sum = |item: usize, lane: usize| -> i32 {
        let x = |tap: usize| meaning(memory[item * lanes + taps[tap] + lane], kernels.flip);
        (0..count).map(|tap| x(tap) * i32::from(weights[lane][tap])).sum()
    };
    let output = random.output();
    for middle in 0..items {
        let multipliers: Vec<f32> = (0..lanes).map(|_| random.multiplier()).collect();
        let bias: Vec<i32> =
            (0..lanes).map(|l| random.bias(sum(middle, l), multipliers[l], output.zero_point)).collect();
        let mut block = block(lanes, taps.len() * lanes * kernel.weights.bytes(), &bias, &multipliers, kernel.lane);
        let body = &mut block.as_mut_slice()[lanes * 8..];
        for place in 0..lanes {
            for (tap, weight) in weights[(kernel.lane)(place)].iter().enumerate() {
                put(body, (tap / depth * lanes + place) * depth + tap % depth, *weight, kernel.weights);
            }
        }
        let mut out = vec![0xaa; items * lanes + 8];
        // SAFETY: memory, block and output are as large as is said here, and this core has the instructions.
        unsafe {
            (kernel.run)(&Lanes {
                window: memory.as_ptr(),
                step: lanes,
                taps: &taps,
                block: block.as_slice().as_ptr(),
                out: out.as_mut_ptr(),
                out_step: lanes,
                items,
                lanes,
                lanes_last,
                output,
            });
        }
        let mut expected = vec![0xaa; out.len()];
        for (at, byte) in expected[..(items - 1) * lanes + lanes_last].iter_mut().enumerate() {
            let (item, lane) = (at / lanes, at % lanes);
            let sum = sum(item, lane) + bias[lane];
            *byte = requantize(sum, multipliers[lane], output.zero_point, output.range) ^ kernels.flip;
        }
        assert_eq!(out, expected, "{}: {count} taps of {items} items, {of:?}", kernels.name);
    }
}

#[test]
fn every_shape_computes_each_bit_of_every_sum() {
    let random = &mut Random(1);
    for kernels in ALL.iter().filter(|kernels| (kernels.available)()) {
        for gemm in kernels.gemms {
            for windows in 1..=gemm.windows {
                for of in KINDS {
                    (0..3).for_each(|_| dense(random, gemm, windows, of, kernels));
                }
            }
        }
        for count in [1, 2, 3, 4, 8, 9, 12, 25, 40] {
            for of in KINDS {
                (0..3).for_each(|_| depthwise(random, kernels.depthwise, count, of, kernels));
            }
        }
    }
}
