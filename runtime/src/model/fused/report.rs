//! Which nodes of a graph run as fused integer operators, and why the others do not.

/// What is computed how.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Fusion {
    /// Every node of the graph, in the file's order.
    pub nodes: Vec<NodeFusion>,
    /// How many regions there are; layers that quantize the same tensor at every run count as one.
    pub regions: usize,
    /// Whether one region is the whole model, so that tract takes no part.
    pub whole: bool,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct NodeFusion {
    /// Its name, or that of what it yields.
    pub name: String,
    /// Its operator.
    pub operator: String,
    /// What becomes of it.
    #[serde(flatten)]
    pub fate: Fate,
}

/// What becomes of a node.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "fate", rename_all = "kebab-case")]
pub enum Fate {
    /// It is part of a region.
    Fused {
        /// Which one.
        region: usize,
    },
    /// It yields the same in every run and is computed at load.
    Constant,
    /// tract runs it.
    Left {
        /// Why.
        #[serde(serialize_with = "in_words")]
        reason: Reason,
    },
}

fn in_words<S: serde::Serializer>(reason: &Reason, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(reason)
}

/// Why a node is left to tract.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Reason {
    #[error("the engine has no integer form of it")]
    NoIntegerForm,
    #[error("it reads `{0}` in float")]
    FloatInput(String),
    #[error("its result is used in float by {0}")]
    FloatResult(String),
    #[error("its result is used more than once before it is quantized")]
    UsedTwice,
    #[error("its weights are computed in the graph")]
    VaryingWeights,
    #[error("its weights are not quantized")]
    FloatWeights,
    #[error("the zero point of its weights does not let them be int8")]
    WeightZeroPoint,
    #[error("its scale or zero point is computed in the graph")]
    VaryingScale,
    #[error("its activations have a scale for each channel")]
    ScalePerChannel,
    #[error("it is quantized to a type other than int8 and uint8")]
    OtherType,
    #[error("its setting {0} has no integer form")]
    Setting(&'static str),
    #[error("its input {0} is computed in the graph")]
    VaryingInput(&'static str),
    #[error("its sizes are not supported: {0}")]
    Sizes(String),
    #[error("it is no part of a dynamically quantized layer: {0}")]
    NotDynamic(&'static str),
    #[error("its bias is too large for an accumulator")]
    LargeBias,
    #[error("its scales may turn a product into more steps than 32 bits hold")]
    LargeSteps,
    #[error("there is nothing between its quantization and the next to compute in integers")]
    Alone,
    #[error("the engine was set aside")]
    Off,
}

impl Fusion {
    /// Nodes that are left to tract.
    pub fn left(&self) -> impl Iterator<Item = (&NodeFusion, &Reason)> {
        self.nodes.iter().filter_map(|node| match &node.fate {
            Fate::Left { reason } => Some((node, reason)),
            _ => None,
        })
    }

    /// How many nodes are part of a region.
    pub fn fused(&self) -> usize {
        self.nodes.iter().filter(|node| matches!(node.fate, Fate::Fused { .. })).count()
    }
}
