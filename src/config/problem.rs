//! What is wrong with a file, for the operator's eyes.

use std::error::Error;
use std::fmt;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where in the tree, as in `pools.shop.backends[2].weight`; empty for the file as a whole.
    pub path: String,
    /// Counted from 1; `None` when no line is to blame, as for a missing key at the top.
    pub line: Option<usize>,
    /// What was expected and what was found.
    pub message: String,
}

/// Everything that is wrong with one file, in file order. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    /// The file, as the operator named it.
    pub file: String,
    /// In file order; those without a line come last.
    pub list: Vec<Problem>,
}

impl Problems {
    pub(super) fn new(file: &str, mut list: Vec<Problem>) -> Self {
        // Stable, so that several problems of one line stay in the order they were found.
        list.sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
        Self { file: file.to_owned(), list }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.list.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            f.write_str(&self.file)?;
            if let Some(line) = problem.line {
                write!(f, ":{line}")?;
            }
            write!(f, ": {problem}")?;
        }
        Ok(())
    }
}

impl Error for Problems {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_problem_is_one_line_with_file_line_and_path() {
        let problem =
            |path: &str, line, message: &str| Problem { path: path.to_owned(), line, message: message.to_owned() };
        let problems = Problems::new(
            "app.yaml",
            vec![
                problem("pools", None, "expected at least one pool, found nothing"),
                problem("listeners[0]", Some(3), "expected a mapping, found a list"),
                problem("", Some(1), "expected a mapping, found 5"),
            ],
        );
        assert_eq!(
            problems.to_string(),
            "app.yaml:1: expected a mapping, found 5\n\
             app.yaml:3: listeners[0]: expected a mapping, found a list\n\
             app.yaml: pools: expected at least one pool, found nothing"
        );
    }
}
