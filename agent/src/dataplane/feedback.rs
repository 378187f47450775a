//! Right answers from outside, on their way to the component that predicted.

use sedge_protocol::BundleDigest;
use sedge_protocol::id::ComponentName;
use std::collections::HashMap;
use tokio::sync::{mpsc, oneshot};

/// Answers that wait for one component.
pub(super) const FEEDBACK_MAX: usize = 16;

/// A right answer.
#[derive(Debug)]
pub(super) struct Feedback {
    /// Which prediction.
    pub(super) id: String,
    /// What is right.
    pub(super) label: String,
    /// Where it is said what came of it.
    pub(super) done: oneshot::Sender<Result<Heard, FeedbackError>>,
}

/// What came of a right answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Heard {
    /// The bundle that predicted.
    pub bundle: BundleDigest,
    /// Whether it was right.
    pub right: bool,
}

/// Why a right answer does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FeedbackError {
    /// Nobody predicted it.
    #[error("no prediction `{0}`; `/latest` tells ids, and of several of one sample the first counts")]
    Unknown(String),
    /// It is forgotten.
    #[error("prediction `{0}` is no longer remembered; tell its label within the hour")]
    TooLate(String),
    /// It has its answer.
    #[error("prediction `{0}` has its label already; the first counts")]
    Twice(String),
    /// The component is gone.
    #[error("the component has ended")]
    Ended,
}

/// Who takes right answers; nobody by default.
#[derive(Debug, Clone, Default)]
pub struct Listeners(pub(super) HashMap<ComponentName, mpsc::Sender<Feedback>>);

impl Listeners {
    /// Brings the right answer to a prediction.
    ///
    /// # Errors
    /// [`FeedbackError`] when it counts for nothing.
    pub async fn tell(&self, id: &str, label: &str) -> Result<Heard, FeedbackError> {
        let mut refused = FeedbackError::Unknown(id.to_owned());
        for (component, listener) in &self.0 {
            // One component's name may begin with another's, so several may be asked.
            if !id.strip_prefix(component.as_str()).is_some_and(|rest| rest.starts_with('-')) {
                continue;
            }
            let (done, heard) = oneshot::channel();
            let feedback = Feedback { id: id.to_owned(), label: label.to_owned(), done };
            listener.send(feedback).await.map_err(|_| FeedbackError::Ended)?;
            match heard.await.map_err(|_| FeedbackError::Ended)? {
                Err(FeedbackError::Unknown(_)) => {}
                Err(known) => refused = known,
                Ok(heard) => return Ok(heard),
            }
        }
        Err(refused)
    }
}
