//! Strongly connected components (Tarjan's algorithm, without recursion).

/// The search.
pub struct Tarjan {
    index: Vec<Option<usize>>,
    low: Vec<usize>,
    on_stack: Vec<bool>,
    stack: Vec<usize>,
    next: usize,
    found: Vec<Vec<usize>>,
}

impl Tarjan {
    /// The components of a graph of so many places.
    pub fn components(count: usize, successors: &dyn Fn(usize) -> Vec<usize>) -> Vec<Vec<usize>> {
        let mut search = Self {
            index: vec![None; count],
            low: vec![0; count],
            on_stack: vec![false; count],
            stack: Vec::new(),
            next: 0,
            found: Vec::new(),
        };
        for place in 0..count {
            search.run(place, successors);
        }
        search.found
    }

    fn run(&mut self, root: usize, successors: &dyn Fn(usize) -> Vec<usize>) {
        if self.index[root].is_some() {
            return;
        }
        let mut work = vec![(root, self.enter(root, successors))];
        while let Some((place, mut rest)) = work.pop() {
            match rest.next() {
                Some(next) => {
                    work.push((place, rest));
                    match self.index[next] {
                        None => work.push((next, self.enter(next, successors))),
                        Some(index) if self.on_stack[next] => self.low[place] = self.low[place].min(index),
                        Some(_) => {}
                    }
                }
                None => {
                    self.leave(place);
                    if let Some((parent, _)) = work.last() {
                        self.low[*parent] = self.low[*parent].min(self.low[place]);
                    }
                }
            }
        }
    }

    fn enter(&mut self, place: usize, successors: &dyn Fn(usize) -> Vec<usize>) -> std::vec::IntoIter<usize> {
        self.index[place] = Some(self.next);
        self.low[place] = self.next;
        self.next += 1;
        self.stack.push(place);
        self.on_stack[place] = true;
        successors(place).into_iter()
    }

    fn leave(&mut self, place: usize) {
        if Some(self.low[place]) != self.index[place] {
            return;
        }
        let mut component = Vec::new();
        while let Some(member) = self.stack.pop() {
            self.on_stack[member] = false;
            component.push(member);
            if member == place {
                break;
            }
        }
        self.found.push(component);
    }
}
