//! Reference statistics of a bundle: what the model saw in training, in frozen bins.
//!
//! A device counts live samples into the same bins, so its counts and a fleet's sum up exactly. A value `x` falls into
//! bin `i` when `edges[i-1] <= x < edges[i]`; the outer bins are open.

use serde::{Deserialize, Serialize};

/// `schema` of the files that this version reads.
pub const SCHEMA: &str = "sedge.reference/1";
/// Longest file that is read.
pub const REFERENCE_BYTES_MAX: usize = 1 << 20;
const BINS_MAX: usize = 256;

/// Statistics from training or commissioning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// What the rows are, in one line.
    pub dataset: String,
    /// Samples counted.
    pub rows: u64,
    /// Histograms of the model's inputs.
    pub features: Vec<Feature>,
    /// Predicted classes.
    pub classes: Vec<ClassCount>,
    /// Largest probability.
    pub confidence: Histogram,
    /// `-logsumexp(logits)`; absent where the model yields no logits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy: Option<Histogram>,
    /// How often each level of confidence was right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
}

/// A histogram of one input feature.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Feature {
    pub name: String,
    pub edges: Vec<f64>,
    pub counts: Vec<u64>,
}

/// A histogram.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Histogram {
    pub edges: Vec<f64>,
    pub counts: Vec<u64>,
}

/// How often the model predicted a class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct ClassCount {
    pub label: String,
    pub count: u64,
}

/// Right answers by confidence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Calibration {
    pub edges: Vec<f64>,
    pub correct: Vec<u64>,
    pub total: Vec<u64>,
}

/// Why a file holds no reference statistics.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("reference statistics: {0}")]
pub struct ReferenceError(String);

impl Reference {
    /// Reads and checks a reference file.
    ///
    /// # Errors
    /// [`ReferenceError`] with the histogram and what is wrong with it.
    pub fn parse(json: &[u8]) -> Result<Self, ReferenceError> {
        if json.len() > REFERENCE_BYTES_MAX {
            return Err(ReferenceError(format!("{} bytes; at most {REFERENCE_BYTES_MAX} are read", json.len())));
        }
        let reference: Self = serde_json::from_slice(json).map_err(|e| ReferenceError(e.to_string()))?;
        if reference.schema != SCHEMA {
            return Err(ReferenceError(format!("schema `{}` is not known; expected `{SCHEMA}`", reference.schema)));
        }
        let classes = reference.classes.iter().map(|c| &c.label);
        let features = reference.features.iter().map(|f| &f.name);
        if [&reference.dataset].into_iter().chain(classes).chain(features).any(|t| crate::text::visible(t, 1024) != *t)
        {
            return Err(ReferenceError("a text is longer than 1024 characters or holds control characters".into()));
        }
        for f in &reference.features {
            bins(&f.name, &f.edges, &f.counts)?;
        }
        bins("confidence", &reference.confidence.edges, &reference.confidence.counts)?;
        if let Some(h) = &reference.energy {
            bins("energy", &h.edges, &h.counts)?;
        }
        if let Some(c) = &reference.calibration {
            bins("calibration.total", &c.edges, &c.total)?;
            bins("calibration.correct", &c.edges, &c.correct)?;
            if c.correct.iter().zip(&c.total).any(|(correct, total)| correct > total) {
                return Err(ReferenceError("calibration: more right answers than answers in a bin".into()));
            }
        }
        Ok(reference)
    }
}

fn bins(name: &str, edges: &[f64], counts: &[u64]) -> Result<(), ReferenceError> {
    let problem = if edges.is_empty() || edges.len() >= BINS_MAX {
        format!("{} edges; expected 1 to {}", edges.len(), BINS_MAX - 1)
    } else if counts.len() != edges.len() + 1 {
        format!("{} counts for {} edges; expected one more than edges", counts.len(), edges.len())
    } else if !edges.iter().all(|e| e.is_finite()) || !edges.windows(2).all(|w| w[0] < w[1]) {
        "edges are not finite and strictly increasing".to_owned()
    } else {
        return Ok(());
    };
    Err(ReferenceError(format!("{name}: {problem}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_named() {
        let good = r#"{"schema":"sedge.reference/1","dataset":"d","rows":3,
            "features":[{"name":"image.mean","edges":[0.1,0.2],"counts":[1,1,1]}],
            "classes":[{"label":"0","count":3}],"confidence":{"edges":[0.5],"counts":[1,2]}}"#;
        assert!(Reference::parse(good.as_bytes()).is_ok());
        for (from, to, expected) in [
            ("reference/1", "reference/2", "schema"),
            ("[0.1,0.2]", "[0.2,0.2]", "image.mean: edges are not finite and strictly increasing"),
            ("[1,1,1]", "[1,1]", "image.mean: 2 counts for 2 edges"),
            ("\"rows\":3", "\"rows\":-3", "line 1"),
        ] {
            let e = Reference::parse(good.replacen(from, to, 1).as_bytes()).expect_err(to);
            assert!(e.to_string().contains(expected), "{e}");
        }
    }
}
