//! What holds for every manifest beyond its syntax.

use super::{Golden, Manifest, ManifestError, Processor, SCHEMA, TensorDescription};
use crate::text::{one_line, visible};
use std::collections::BTreeSet;
use std::fmt::Display;

// Bounds stop a signed but careless manifest from costing a device its memory or time.
const NAME_LENGTH_MAX: usize = 64;
const PATH_LENGTH_MAX: usize = 128;
const VARIANTS_MAX: usize = 32;
const TENSORS_MAX: usize = 64;
const DIMENSIONS_MAX: usize = 8;
const ELEMENTS_MAX: i64 = 1 << 28;
const GOLDEN_MAX: usize = 256;
const MEMORY_MIB_MAX: u32 = 64 * 1024;
const SANDBOX_MEMORY_MIB_MAX: u32 = 256;
const SANDBOX_MS_MAX: u32 = 60_000;

/// Longest text that people read.
const TEXT_LENGTH_MAX: usize = 1024;

pub(super) fn invalid(place: impl Display, problem: impl Display) -> ManifestError {
    ManifestError::Invalid { place: one_line(&place.to_string()), problem: one_line(&problem.to_string()) }
}

/// A text that is shown as it is: it must not move a terminal's cursor.
fn shown(place: impl Display, text: &str) -> Result<(), ManifestError> {
    if text.chars().count() <= TEXT_LENGTH_MAX && visible(text, TEXT_LENGTH_MAX) == text {
        return Ok(());
    }
    Err(invalid(place, format!("is longer than {TEXT_LENGTH_MAX} characters or holds control characters")))
}

impl Manifest {
    /// Checks what the syntax cannot.
    ///
    /// # Errors
    /// [`ManifestError::Invalid`] for the first thing that is wrong.
    pub fn validate(&self) -> Result<(), ManifestError> {
        if self.schema != SCHEMA {
            return Err(invalid(
                "schema",
                format!("`{}` is not known here; this version reads `{SCHEMA}`", self.schema),
            ));
        }
        self.validate_header()?;
        self.validate_variants()?;
        tensors("input", &self.input, false)?;
        tensors("output", &self.output, true)?;
        if let Some(confidence) = &self.confidence {
            self.require_output("confidence.output", &confidence.output)?;
        }
        processor("preprocessor", &self.preprocessor)?;
        processor("postprocessor", &self.postprocessor)?;
        for (place, file) in [("labels.file", &self.labels), ("reference.file", &self.reference)] {
            if let Some(f) = file {
                path(place, &f.file)?;
            }
        }
        self.validate_limits()?;
        if self.golden.len() > GOLDEN_MAX {
            return Err(invalid("golden", format!("{} samples; at most {GOLDEN_MAX}", self.golden.len())));
        }
        self.golden.iter().enumerate().try_for_each(|(i, g)| self.validate_golden(i, g))?;
        let files = self.files();
        match self.sources.keys().find(|s| !files.contains(s.as_str())) {
            Some(unused) => Err(invalid("sources", format!("no part of the manifest names the file `{unused}`"))),
            None => Ok(()),
        }
    }

    fn validate_header(&self) -> Result<(), ManifestError> {
        if self.bundle.license.trim().is_empty() {
            return Err(invalid("bundle.license", "is empty; give an SPDX expression, `LicenseRef-…` for your own"));
        }
        shown("bundle.license", &self.bundle.license)?;
        shown("bundle.description", &self.bundle.description)?;
        let origin = self.bundle.source.iter();
        origin
            .flat_map(|o| [Some(&o.repo), o.commit.as_ref(), o.run.as_ref()])
            .flatten()
            .try_for_each(|t| shown("bundle.source", t))
    }

    fn validate_variants(&self) -> Result<(), ManifestError> {
        if self.variant.is_empty() || self.variant.len() > VARIANTS_MAX {
            return Err(invalid("variant", format!("{} variants; give 1 to {VARIANTS_MAX}", self.variant.len())));
        }
        let mut names = BTreeSet::new();
        for (i, v) in self.variant.iter().enumerate() {
            if v.name.is_empty() || v.name.len() > NAME_LENGTH_MAX || !names.insert(&v.name) {
                return Err(invalid(
                    format!("variant[{i}].name"),
                    format!("`{}` is empty, long or used twice", v.name),
                ));
            }
            shown(format!("variant[{i}].name"), &v.name)?;
            v.requires.arch.iter().try_for_each(|a| shown(format!("variant[{i}].requires.arch"), a))?;
            path(format!("variant[{i}].file"), &v.file)?;
        }
        Ok(())
    }

    fn require_output(&self, place: impl Display, name: &str) -> Result<(), ManifestError> {
        if self.output.iter().any(|o| o.name == name) {
            return Ok(());
        }
        let known: Vec<&str> = self.output.iter().map(|o| o.name.as_str()).collect();
        Err(invalid(place, format!("there is no output `{name}`; the outputs are {known:?}")))
    }

    fn validate_limits(&self) -> Result<(), ManifestError> {
        let limits = &self.limits;
        for (key, value, max) in [
            ("memory_mib", limits.memory_mib, MEMORY_MIB_MAX),
            ("sandbox_memory_mib", limits.sandbox_memory_mib, SANDBOX_MEMORY_MIB_MAX),
            ("sandbox_ms", limits.sandbox_ms, SANDBOX_MS_MAX),
        ] {
            if value == 0 || value > max {
                return Err(invalid(format!("limits.{key}"), format!("{value} is not between 1 and {max}")));
            }
        }
        limits.latency_p95_ms.keys().try_for_each(|target| shown("limits.latency_p95_ms", target))?;
        match limits.latency_p95_ms.iter().find(|(_, ms)| !ms.is_finite() || **ms <= 0.0) {
            Some((target, ms)) => {
                Err(invalid(format!("limits.latency_p95_ms.{target}"), format!("{ms} is no duration")))
            }
            None => Ok(()),
        }
    }

    fn validate_golden(&self, i: usize, golden: &Golden) -> Result<(), ManifestError> {
        path(format!("golden[{i}].input"), &golden.input)?;
        golden.label.iter().try_for_each(|l| shown(format!("golden[{i}].label"), l))?;
        if golden.label.is_none() && golden.expect.is_empty() {
            return Err(invalid(format!("golden[{i}]"), "expects nothing; give `label`, `expect` or both"));
        }
        if !golden.atol.is_finite() || golden.atol < 0.0 {
            return Err(invalid(format!("golden[{i}].atol"), format!("{} is no tolerance", golden.atol)));
        }
        for (output, file) in &golden.expect {
            self.require_output(format!("golden[{i}].expect"), output)?;
            path(format!("golden[{i}].expect.{output}"), file)?;
        }
        Ok(())
    }
}

/// A path inside the bundle: relative, of plain characters, without a way out.
fn path(place: impl Display, path: &str) -> Result<(), ManifestError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-+".contains(c);
    let part = |p: &str| !p.is_empty() && p != "." && p != ".." && p.chars().all(plain);
    if path.len() > PATH_LENGTH_MAX || !path.split('/').all(part) {
        return Err(invalid(
            place,
            format!("`{path}` is not a path inside the bundle: parts of A-Z a-z 0-9 . _ - + with `/` between, no `..`"),
        ));
    }
    Ok(())
}

fn tensors(key: &str, tensors: &[TensorDescription], open_allowed: bool) -> Result<(), ManifestError> {
    if tensors.is_empty() || tensors.len() > TENSORS_MAX {
        return Err(invalid(key, format!("{} tensors; give 1 to {TENSORS_MAX}", tensors.len())));
    }
    let mut names = BTreeSet::new();
    for (i, t) in tensors.iter().enumerate() {
        if t.name.is_empty() || t.name.len() > 256 || !names.insert(&t.name) {
            return Err(invalid(format!("{key}[{i}].name"), format!("`{}` is empty, long or used twice", t.name)));
        }
        shown(format!("{key}[{i}].name"), &t.name)?;
        let place = format!("{key}[{i}].shape");
        if t.shape.len() > DIMENSIONS_MAX {
            return Err(invalid(place, format!("{} dimensions; at most {DIMENSIONS_MAX}", t.shape.len())));
        }
        if let Some(d) = t.shape.iter().find(|&&d| d < 1 && !(open_allowed && d == -1)) {
            let open = if open_allowed { ", or -1 where it varies" } else { "" };
            return Err(invalid(place, format!("a dimension is {d}; sizes start at 1{open}")));
        }
        let elements = t.shape.iter().try_fold(1i64, |n, &d| n.checked_mul(i64::from(d.abs())));
        if elements.is_none_or(|n| n > ELEMENTS_MAX) {
            return Err(invalid(place, format!("{:?} has more than {ELEMENTS_MAX} elements", t.shape)));
        }
        if let Some(q) = t.quantization
            && !(q.scale.is_finite() && q.scale > 0.0)
        {
            return Err(invalid(
                format!("{key}[{i}].quantization.scale"),
                format!("{} is not a positive number", q.scale),
            ));
        }
    }
    Ok(())
}

fn processor(key: &str, processor: &Processor) -> Result<(), ManifestError> {
    let place = format!("{key}.component");
    let Some(builtin) = processor.component.strip_prefix(super::BUILTIN_PREFIX) else {
        return path(place, &processor.component);
    };
    let valid = builtin.split_once('@').is_some_and(|(name, major)| {
        name.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !name.is_empty() && major.parse::<u16>().is_ok()
    });
    if !valid {
        return Err(invalid(place, format!("`{}` is not of the form `builtin:NAME@MAJOR`", processor.component)));
    }
    if !processor.grants.is_empty() {
        return Err(invalid(format!("{key}.grants"), "built-in processors take no grants"));
    }
    Ok(())
}
