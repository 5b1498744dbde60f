//! Assembles classic BPF (Linux, Documentation/networking/filter.rst), from its end to its start: so the way to where a jump
//! goes is known when the jump is made. Conditional jumps reach 255 instructions; what is further off is reached by a
//! copy or another jump.

use std::collections::HashMap;

/// `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// What it does.
    pub code: u16,
    /// Instructions to skip if true.
    pub jt: u8,
    /// If false.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// Where an instruction stands, counted from the program's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label(usize);

/// A conditional jump's comparison of the accumulator with an operand.
#[derive(Debug, Clone, Copy)]
pub enum Test {
    /// Equal.
    Equal = 0x15,
    /// Greater.
    Greater = 0x25,
    /// Greater or equal.
    GreaterOrEqual = 0x35,
}

const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;

/// How far a conditional jump goes: its reach less what may come between, the copies for its two targets.
const REACH: usize = 250;

/// A program that grows at its start.
#[derive(Debug, Default)]
pub struct Program {
    reversed: Vec<Instruction>,
    /// The last return of a value.
    returns: HashMap<u32, Label>,
}

impl Program {
    /// The instructions, in their order.
    pub fn finish(mut self) -> Vec<Instruction> {
        self.reversed.reverse();
        self.reversed
    }

    fn push(&mut self, code: u16, k: u32) -> Label {
        self.reversed.push(Instruction { code, jt: 0, jf: 0, k });
        Label(self.reversed.len() - 1)
    }

    /// Instructions between the next one and `label`.
    fn between(&self, label: Label) -> usize {
        self.reversed.len() - label.0 - 1
    }

    /// Ends the program with `value`.
    pub fn returns(&mut self, value: u32) -> Label {
        match self.returns.get(&value) {
            Some(label) => *label,
            None => self.another_return(value),
        }
    }

    fn another_return(&mut self, value: u32) -> Label {
        let label = self.push(RETURN, value);
        self.returns.insert(value, label);
        label
    }

    /// The same as `label`, within reach.
    fn near(&mut self, label: Label) -> Label {
        if self.between(label) <= REACH {
            return label;
        }
        let there = self.reversed[label.0];
        if there.code == RETURN {
            let last = self.returns(there.k);
            return if self.between(last) <= REACH { last } else { self.another_return(there.k) };
        }
        self.jump(label)
    }

    fn jump(&mut self, to: Label) -> Label {
        let offset = u32::try_from(self.between(to)).unwrap_or(u32::MAX); // a program is not that long
        self.push(JUMP, offset)
    }

    /// Goes to `yes` or `no`.
    pub fn test(&mut self, test: Test, operand: u32, yes: Label, no: Label) -> Label {
        if yes == no {
            return yes;
        }
        let (yes, no) = (self.near(yes), self.near(no));
        let offset = |label| u8::try_from(self.between(label)).unwrap_or(u8::MAX);
        let (jt, jf) = (offset(yes), offset(no));
        self.reversed.push(Instruction { code: test as u16, jt, jf, k: operand });
        Label(self.reversed.len() - 1)
    }

    /// Loads four bytes of `struct seccomp_data` into the accumulator, and goes on at `next`.
    pub fn load(&mut self, offset: u32, next: Label) -> Label {
        self.before(next);
        self.push(LOAD, offset)
    }

    /// Masks the accumulator, and goes on at `next`.
    pub fn and(&mut self, mask: u32, next: Label) -> Label {
        self.before(next);
        self.push(AND, mask)
    }

    /// Makes `next` what follows.
    fn before(&mut self, next: Label) {
        if self.between(next) > 0 {
            self.jump(next);
        }
    }
}
