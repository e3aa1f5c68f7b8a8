//! A child that is run instruction by instruction, and killed anywhere (`man 2 ptrace`).

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

use crate::children::Child;

/// The instruction that traps, one byte long.
const TRAP: u8 = 0xcc;
const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// A stopped child, between two instructions. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Traced {
    child: Child,
    memory: File,
    traps: Vec<(u64, u8)>,
}

/// A system call that the child is about to make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Call {
    pub(crate) number: i64,
    pub(crate) arguments: [u64; 4],
}

/// Stops a traced child. Without a tracer this ends the process.
#[inline]
pub(crate) fn mark() {
    // SAFETY: a trap; the tracer lets this process go on behind it.
    unsafe { std::arch::asm!("int3") }
}

impl Traced {
    /// Forks a child that runs `body`, and returns once it is at its first [`mark`].
    pub(crate) fn start(body: impl FnOnce()) -> Traced {
        let child = Child::fork(|| {
            ask_to_be_traced();
            body();
        });
        let memory = OpenOptions::new().read(true).write(true).open(format!("/proc/{}/mem", child.pid)).unwrap();
        let mut child = Traced { child, memory, traps: Vec::new() };
        child.until_stopped();
        child
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.pid as u32
    }

    /// The address of the next instruction.
    pub(crate) fn place(&self) -> u64 {
        self.registers().rip
    }

    /// Whether it is before a mark.
    pub(crate) fn is_at_mark(&self) -> bool {
        self.code_at(self.place())[0] == TRAP
    }

    /// The system call before which it is.
    pub(crate) fn call(&self) -> Option<Call> {
        let registers = self.registers();
        let arguments = [registers.rdi, registers.rsi, registers.rdx, registers.r10];
        let call = Call { number: registers.rax as i64, arguments };
        (self.code_at(registers.rip) == SYSCALL).then_some(call)
    }

    /// Runs one instruction.
    pub(crate) fn step(&mut self) {
        self.begin_step();
        self.until_stopped();
    }

    /// Runs one instruction without waiting for its end: it may be a system call that sleeps.
    pub(crate) fn begin_step(&self) {
        self.go(libc::PTRACE_SINGLESTEP);
    }

    /// Returns once the instruction is done, or a trap or a mark is reached.
    pub(crate) fn until_stopped(&mut self) {
        let status = self.child.status();
        assert!(libc::WIFSTOPPED(status), "the child has ended by itself: {status:#x}");
        assert_eq!(libc::WSTOPSIG(status), libc::SIGTRAP, "the child was stopped by something else");
    }

    /// Runs until it is about to make a system call, which is carried out when it goes on, and returns its number.
    /// `None` if it comes to a mark first.
    pub(crate) fn until_call(&mut self) -> Option<i64> {
        self.go(libc::PTRACE_SYSCALL);
        self.until_stopped();
        let registers = self.registers();
        (self.code_at(registers.rip - 1)[0] != TRAP).then_some(registers.orig_rax as i64)
    }

    /// Lets the system call happen.
    pub(crate) fn end_call(&mut self) {
        self.go(libc::PTRACE_SYSCALL);
        self.until_stopped();
    }

    /// Sets a trap at the instruction at `place`.
    pub(crate) fn trap(&mut self, place: u64) {
        if self.traps.iter().all(|&(trap, _)| trap != place) {
            self.traps.push((place, self.code_at(place)[0]));
            self.poke(place, &[TRAP]);
        }
    }

    /// Runs until it is at a trap, and returns its place. `None` if it is at a mark.
    pub(crate) fn go_on(&mut self) -> Option<u64> {
        self.go(libc::PTRACE_CONT);
        self.until_stopped();
        let place = self.place() - 1;
        self.go_back_to(place);
        self.traps.iter().any(|&(trap, _)| trap == place).then_some(place)
    }

    /// Runs `step` with the original instruction instead of the trap.
    pub(crate) fn over_trap(&mut self, step: impl FnOnce(&mut Traced)) {
        let place = self.place();
        let trap = self.traps.iter().find(|&&(trap, _)| trap == place).copied();
        trap.iter().for_each(|&(place, byte)| self.poke(place, &[byte]));
        step(self);
        trap.iter().for_each(|&(place, _)| self.poke(place, &[TRAP]));
    }

    pub(crate) fn peek<const N: usize>(&self, place: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.memory.read_exact_at(&mut bytes, place).unwrap();
        bytes
    }

    pub(crate) fn poke(&self, place: u64, bytes: &[u8]) {
        self.memory.write_all_at(bytes, place).unwrap();
    }

    /// The original code at `place`.
    fn code_at(&self, place: u64) -> [u8; 2] {
        let mut code = self.peek(place);
        if let Some(&(_, byte)) = self.traps.iter().find(|&&(trap, _)| trap == place) {
            code[0] = byte;
        }
        code
    }

    fn go(&self, request: impl Into<i64>) {
        // SAFETY: a request that takes no pointers, only the number of a signal, which is none.
        let went = unsafe { libc::ptrace(request.into() as _, self.child.pid, 0, 0) };
        assert_eq!(went, 0, "the child cannot be let go on");
    }

    fn registers(&self) -> libc::user_regs_struct {
        // SAFETY: all-zero is a valid set of registers.
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        // SAFETY: the child stands still, and `registers` is valid for writing.
        let read = unsafe { libc::ptrace(libc::PTRACE_GETREGS, self.child.pid, 0, &mut registers) };
        assert_eq!(read, 0, "the child's registers cannot be read");
        registers
    }

    fn go_back_to(&self, place: u64) {
        let registers = libc::user_regs_struct { rip: place, ..self.registers() };
        // SAFETY: the child stands still, and `registers` is valid for reading.
        unsafe { libc::ptrace(libc::PTRACE_SETREGS, self.child.pid, 0, &registers) };
    }
}

/// Whether this process may trace its children; some containers forbid it.
pub(crate) fn is_allowed() -> bool {
    Child::fork(|| assert!(ask_to_be_traced())).status() == 0
}

fn ask_to_be_traced() -> bool {
    // SAFETY: takes no pointers.
    unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) == 0 }
}
