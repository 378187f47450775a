//! The arrays of one `.npy` or `.npz` file.
//!
//! A header may claim any size. What it claims is held against what the file has before memory is taken for it, and
//! neither may be larger than [`ARRAY_BYTES_MAX`].

use super::QuantizeError;
use ndarray::ArrayD;
use ndarray_npy::{ReadNpyExt as _, ReadableElement};
use sedge_processor_sdk::ElementType;
use sedge_protocol::text::{one_line, visible};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use zip::ZipArchive;

/// Larger arrays are refused: they would be in memory as a whole.
const ARRAY_BYTES_MAX: u64 = 1 << 31;
/// Right classes in an `.npz`.
const LABELS: &str = "y";

pub(super) enum Arrays {
    /// One array without a name.
    Npy(PathBuf),
    /// Entries of an archive, and their names.
    Npz(Box<ZipArchive<BufReader<File>>>, Vec<String>),
}

impl Arrays {
    pub(super) fn open(path: &Path) -> Result<Self, QuantizeError> {
        if path.extension().is_some_and(|e| e == "npy") {
            return Ok(Self::Npy(path.to_owned()));
        }
        let file = File::open(path).map_err(|source| QuantizeError::ReadFile { file: path.to_owned(), source })?;
        let archive = ZipArchive::new(BufReader::new(file)).map_err(|e| QuantizeError::Sample {
            file: path.to_owned(),
            tensor: "the file".to_owned(),
            problem: format!("is no readable .npz archive: {}", one_line(&e.to_string())),
        })?;
        let names = archive.file_names().map(str::to_owned).collect();
        Ok(Self::Npz(Box::new(archive), names))
    }

    /// The array that belongs to an input: its name, `x`, or the only one there is. `None` stands for the one of a
    /// `.npy`.
    pub(super) fn key(&self, input: &str, single: bool) -> Result<Option<String>, String> {
        match self {
            Self::Npy(_) if single => Ok(None),
            Self::Npy(_) => Err("is one of several inputs; give .npz files with an array for each".to_owned()),
            Self::Npz(_, names) => {
                let only = || (single && names.len() == 1).then(|| names[0].clone());
                let found = self.find(input).or_else(|| self.find("x").filter(|_| single)).or_else(only);
                let there = || names.iter().map(|n| visible(plain(n), 60)).collect::<Vec<_>>().join(", ");
                found.map(Some).ok_or_else(|| format!("has no array; the file holds {}", there()))
            }
        }
    }

    /// An entry by the name of its array.
    fn find(&self, wanted: &str) -> Option<String> {
        let Self::Npz(_, names) = self else { return None };
        names.iter().find(|n| plain(n) == wanted).cloned()
    }

    /// The bytes of one array's `.npy` form.
    fn bytes(&mut self, key: Option<&str>) -> Result<Vec<u8>, String> {
        let told = |e: &dyn std::fmt::Display| one_line(&e.to_string());
        match (self, key) {
            (Self::Npy(path), _) => bounded(File::open(path).map_err(|e| told(&e))?),
            (Self::Npz(archive, _), Some(key)) => bounded(archive.by_name(key).map_err(|e| told(&e))?),
            (Self::Npz(..), None) => Err("no such array".to_owned()),
        }
    }

    /// Shape and row-major bytes.
    pub(super) fn array(&mut self, key: Option<&str>, ty: ElementType) -> Result<(Vec<usize>, Vec<u8>), String> {
        fn values<T: ReadableElement + Copy, const N: usize>(
            bytes: &[u8],
            to: impl Fn(T) -> [u8; N],
        ) -> Result<(Vec<usize>, Vec<u8>), String> {
            let array: ArrayD<T> = parse(bytes)?;
            Ok((array.shape().to_vec(), array.iter().flat_map(|&v| to(v)).collect()))
        }
        let bytes = self.bytes(key)?;
        match ty {
            ElementType::Float32 => values(&bytes, f32::to_le_bytes),
            ElementType::Float64 => values(&bytes, f64::to_le_bytes),
            ElementType::Uint8 => values(&bytes, u8::to_le_bytes),
            ElementType::Int8 => values(&bytes, i8::to_le_bytes),
            ElementType::Int32 => values(&bytes, i32::to_le_bytes),
            ElementType::Int64 => values(&bytes, i64::to_le_bytes),
            other => Err(format!("inputs of {other} are not fed")),
        }
    }

    /// The right classes, where an archive tells them.
    pub(super) fn labels(&mut self) -> Result<Option<Vec<usize>>, String> {
        let Some(key) = self.find(LABELS) else { return Ok(None) };
        let bytes = self.bytes(Some(&key))?;
        fn wide<T: ReadableElement + Into<i64>>(bytes: &[u8]) -> Result<Vec<i64>, String> {
            parse::<T>(bytes).map(|array| array.into_iter().map(T::into).collect())
        }
        let classes = wide::<i64>(&bytes).or_else(|_| wide::<i32>(&bytes)).or_else(|_| wide::<u8>(&bytes))?;
        let class = |v: i64| usize::try_from(v).map_err(|_| format!("{v} is no class"));
        classes.into_iter().map(class).collect::<Result<_, _>>().map(Some)
    }
}

/// An entry's name without the ending that numpy gives it.
fn plain(name: &str) -> &str {
    name.strip_suffix(".npy").unwrap_or(name)
}

fn bounded(reader: impl Read) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    reader.take(ARRAY_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|e| one_line(&e.to_string()))?;
    if bytes.len() as u64 > ARRAY_BYTES_MAX {
        return Err(format!("it has more than {ARRAY_BYTES_MAX} bytes; split it into several files"));
    }
    Ok(bytes)
}

fn parse<T: ReadableElement>(bytes: &[u8]) -> Result<ArrayD<T>, String> {
    match elements(bytes) {
        // Each element takes a byte or more.
        Some(elements) if elements <= bytes.len() as u64 => {}
        Some(elements) => return Err(format!("its header promises {elements} elements, it has {} bytes", bytes.len())),
        None => return Err("it has no readable .npy header".to_owned()),
    }
    ArrayD::<T>::read_npy(bytes).map_err(|e| one_line(&e.to_string()))
}

/// The number of elements that the header of a `.npy` promises.
///
/// It is a Python dictionary in text after the magic, two bytes of version, and its length in two or four bytes
/// (numpy's `numpy.lib.format`).
fn elements(bytes: &[u8]) -> Option<u64> {
    let rest = bytes.strip_prefix(b"\x93NUMPY")?;
    let header = match rest {
        [1, _, a, b, rest @ ..] => rest.get(..usize::from(u16::from_le_bytes([*a, *b])))?,
        [_, _, a, b, c, d, rest @ ..] => rest.get(..u32::from_le_bytes([*a, *b, *c, *d]) as usize)?,
        _ => return None,
    };
    let (_, shape) = std::str::from_utf8(header).ok()?.split_once("'shape'")?;
    let (shape, _) = shape.split_once('(')?.1.split_once(')')?;
    let mut sizes = shape.split(',').map(str::trim).filter(|size| !size.is_empty());
    sizes.try_fold(1u64, |n, size| n.checked_mul(size.trim_end_matches('L').parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn npy(shape: &str, data: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
        let header = format!("{header:117}\n");
        [b"\x93NUMPY\x01\x00".as_slice(), &(header.len() as u16).to_le_bytes(), header.as_bytes(), data].concat()
    }

    #[test]
    fn a_header_is_held_against_what_follows_before_memory_is_taken() {
        let good = npy("(2, 1)", &[0, 0, 128, 63, 0, 0, 0, 64]);
        assert_eq!(elements(&good), Some(2));
        let array = parse::<f32>(&good).expect("two floats");
        assert_eq!((array.shape(), array.as_slice()), (&[2, 1][..], Some(&[1.0, 2.0][..])));
        assert_eq!(elements(&npy("()", &[])), Some(1));
        for (shape, expected) in [
            ("(1099511627776,)", "promises 1099511627776 elements"),
            ("(4294967296, 4294967296, 2)", "no readable .npy header"),
            ("(-1,)", "no readable .npy header"),
            ("(2000,)", "promises 2000 elements"),
        ] {
            let error = parse::<f32>(&npy(shape, &[0; 8])).expect_err(shape);
            assert!(error.contains(expected), "{shape}: {error}");
        }
        for at in 0..good.len() {
            assert!(parse::<f32>(&good[..at]).is_err(), "cut at {at}");
        }
    }
}
