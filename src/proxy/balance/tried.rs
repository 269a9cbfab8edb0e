//! Which members this request has tried already.

/// A small set of member indices, kept in place: it lives and dies with one request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tried {
    indices: [u32; Self::CAPACITY],
    /// How many were inserted, ever.
    inserted: u32,
}

impl Tried {
    /// As many as one request makes attempts.
    pub const CAPACITY: usize = 12;

    /// Adds a member. When full, the one added first is forgotten: nothing to fail a request for.
    pub fn insert(&mut self, index: usize) {
        if !self.contains(index) {
            // A pool has fewer members than a `u32` counts: one that big would not fit into memory.
            self.indices[self.inserted as usize % Self::CAPACITY] = index as u32;
            self.inserted += 1;
        }
    }

    /// Takes a member out, so that it may be tried again.
    pub fn remove(&mut self, index: usize) {
        // Nobody else is forgotten: the others move up.
        let others = *self;
        *self = Self::default();
        others.indices[..others.len()]
            .iter()
            .filter(|other| **other as usize != index)
            .for_each(|other| self.insert(*other as usize));
    }

    /// Whether this member is in it.
    pub fn contains(&self, index: usize) -> bool {
        self.indices[..self.len()].contains(&(index as u32))
    }

    /// How many members are in it.
    pub fn len(&self) -> usize {
        Self::CAPACITY.min(self.inserted as usize)
    }

    /// Whether nobody was tried yet.
    pub fn is_empty(&self) -> bool {
        self.inserted == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_inserted_is_contained_once() {
        let mut tried = Tried::default();
        assert!(tried.is_empty() && !tried.contains(0));
        for index in [4, 0, 4] {
            tried.insert(index);
        }
        assert_eq!(tried.len(), 2);
        assert!(tried.contains(0) && tried.contains(4) && !tried.contains(1));
    }

    #[test]
    fn a_full_set_forgets_the_oldest() {
        let mut tried = Tried::default();
        (0..=Tried::CAPACITY).for_each(|index| tried.insert(index));
        assert_eq!(tried.len(), Tried::CAPACITY);
        assert!(!tried.contains(0) && (1..=Tried::CAPACITY).all(|index| tried.contains(index)));
    }
}
