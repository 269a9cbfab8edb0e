//! `random`: by chance, in proportion to weight.

use fastrand::Rng;

use super::suitability::Candidates;
use super::weight_table::WeightTable;

/// Draws in proportion to weight. O(log N) in the common case that most members are first choices.
#[derive(Debug, Default)]
pub(super) struct Random {
    table: WeightTable,
}

impl Random {
    pub(super) fn pick(&mut self, candidates: &Candidates<'_>, rng: &mut Rng) -> Option<usize> {
        self.table.draw(candidates, None, rng).map(|drawn| drawn.index)
    }
}
