//! A graph that is ready to run.

use crate::check::{GraphError, check};
use crate::graph::{Element, Graph, Port};
use crate::reference::{self, Data};

/// How to compile.
#[derive(Debug, Clone, Default)]
pub struct Options {}

/// Why a run is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// Other bytes than the port has.
    #[error("{what} {index} has {found} bytes, and {expected} are needed")]
    Bytes {
        /// Input or output.
        what: &'static str,
        /// Its place.
        index: usize,
        /// Bytes given.
        found: usize,
        /// Bytes of the port.
        expected: usize,
    },
    /// Too few or too many tensors.
    #[error("{found} {what}s are given, and the graph has {expected}")]
    Count {
        /// Input or output.
        what: &'static str,
        /// How many are given.
        found: usize,
        /// How many there are.
        expected: usize,
    },
}

/// A graph compiled for this core. Shared by any number of sessions.
#[derive(Debug)]
pub struct Program {
    graph: Graph,
}

/// The memory of one run after the other.
#[derive(Debug, Default)]
pub struct Session {}

impl Program {
    /// Checks a graph and prepares it.
    ///
    /// # Errors
    /// [`GraphError`] naming the node.
    pub fn compile(graph: Graph, _options: &Options) -> Result<Self, GraphError> {
        check(&graph)?;
        Ok(Self { graph })
    }

    /// Memory for one run at a time.
    pub fn session(&self) -> Session {
        Session::default()
    }

    /// Bytes of a port's tensor outside.
    pub fn port_bytes(&self, port: &Port) -> usize {
        let elements = self.graph.values[port.value.0].dims.elements().unwrap_or(0);
        elements * if port.element == Element::F32 { 4 } else { 1 }
    }

    /// Runs once. Tensors are in native byte order and in the order of their ports.
    ///
    /// # Errors
    /// [`RunError`] for tensors that do not fit; nothing is computed then.
    pub fn run(&self, _session: &mut Session, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) -> Result<(), RunError> {
        let given: Vec<Data> = self.graph.inputs.iter().zip(inputs).map(|(port, bytes)| data(port, bytes)).collect();
        for (output, data) in outputs.iter_mut().zip(reference::run(&self.graph, &given)) {
            match data {
                Data::U8(bytes) => output.copy_from_slice(&bytes),
                Data::I8(bytes) => output.iter_mut().zip(bytes).for_each(|(out, byte)| *out = byte as u8),
                Data::F32(reals) => output
                    .chunks_exact_mut(4)
                    .zip(reals)
                    .for_each(|(out, real)| out.copy_from_slice(&real.to_ne_bytes())),
            }
        }
        Ok(())
    }
}

fn data(port: &Port, bytes: &[u8]) -> Data {
    match port.element {
        Element::U8 => Data::U8(bytes.to_vec()),
        Element::I8 => Data::I8(bytes.iter().map(|byte| *byte as i8).collect()),
        Element::F32 => {
            Data::F32(bytes.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect())
        }
    }
}
