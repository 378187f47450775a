//! Quantized graphs, fused and in float: the same to one step of the output, operator by operator; whole regions where
//! all is quantized, several where something is not, and one line for what is wrong in a file.

mod compare;
mod elements;
mod layers;
mod moves;
mod quantized;
mod refused;
mod regions;
mod squares;
mod zero_points;
