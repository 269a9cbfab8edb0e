//! Tree -> the serde types of the file, without stopping at the first problem.
//!
//! serde gives up at the first error. Here each value that may be wrong stands in a [`Given`], which notes the failure and
//! lets its neighbours be read; the [`Reader`] has by then reported what was wrong, with path and line.

mod given;

mod reader;

use std::cell::RefCell;
use std::fmt::Display;

pub(super) use given::{Entries, Full, Given, Short};
pub(super) use reader::Reader;

use super::Problem;
use super::tree::{Node, Path};

/// The problems found so far, and the tree they are found in.
pub(super) struct Report<'t> {
    root: &'t Node,
    problems: RefCell<Vec<Problem>>,
}

impl<'t> Report<'t> {
    pub(super) fn new(root: &'t Node, problems: Vec<Problem>) -> Self {
        Self { root, problems: RefCell::new(problems) }
    }

    /// Says what should stand at `path`; what does stand there is added.
    pub(super) fn expected(&self, path: &Path<'_>, expected: impl Display) {
        let found = self.root.find(path).0.map_or_else(|| "nothing".to_owned(), Node::describe);
        self.wrong(path, format!("expected {expected}, found {found}"));
    }

    /// Says what is wrong at `path`.
    pub(super) fn wrong(&self, path: &Path<'_>, message: String) {
        self.wrong_at(path, self.root.find(path).1, message);
    }

    fn wrong_at(&self, path: &Path<'_>, line: Option<usize>, message: String) {
        self.problems.borrow_mut().push(Problem { path: path.to_string(), line, message });
    }

    /// The value of a key that must be there.
    pub(super) fn required<T>(&self, path: &Path<'_>, given: Given<T>, expected: &str) -> Option<T> {
        if given.is_missing() {
            self.expected(path, expected);
        }
        given.option()
    }

    /// Everything that was reported.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }
}
