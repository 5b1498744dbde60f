//! VMware's guestinfo: the variable `guestinfo.containervm.spec` of the VM's configuration, by GuestRPC through the backdoor.
//!
//! Sources: open-vm-tools, `lib/include/backdoor_def.h`, `guest_msg_def.h`, `lib/message/message.c`; Linux,
//! `drivers/gpu/drm/vmwgfx/vmwgfx_msg.c`. Tried against those descriptions only: QEMU's `vmport` takes the call, but has no GuestRPC, and no ESXi was
//! at hand.

use super::Source;
use crate::failure::Failure;
use protocol::Stage::Spec;
use protocol::stored::MOST_STORED;
use std::arch::asm;
use std::arch::x86_64::__cpuid;

/// What is asked, and how an answer with a value begins.
const QUESTION: &[u8] = b"info-get guestinfo.containervm.spec";
const VALUE: &[u8] = b"1 ";
/// The answer for a variable that is not set.
const NO_VALUE: &[u8] = b"0 No value found";

/// `BDOOR_MAGIC`, `BDOOR_PORT`, `BDOOR_CMD_MESSAGE`.
const MAGIC: u32 = 0x564d_5868;
const PORT: u32 = 0x5658;
const MESSAGE: u32 = 30;
/// `RPCI_PROTOCOL_NUM | GUESTMSG_FLAG_COOKIE`.
const RPCI: u32 = 0x4943_5052 | 0x8000_0000;

// `MessageType`s.
const OPEN: u32 = 0;
const SEND_SIZE: u32 = 1;
const SEND_PAYLOAD: u32 = 2;
const RECEIVE_SIZE: u32 = 3;
const RECEIVE_PAYLOAD: u32 = 4;
const RECEIVE_STATUS: u32 = 5;
const CLOSE: u32 = 6;

// `MESSAGE_STATUS_*`, in the upper half of ecx.
const SUCCESS: u32 = 1 << 16;
const HAS_ANSWER: u32 = 2 << 16;

/// The CPU's registers, as the backdoor takes and gives them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Registers {
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
    pub esi: u32,
    pub edi: u32,
}

/// The way to the hypervisor.
pub trait Backdoor {
    /// Whether there is one: to call where there is none is a fault.
    fn is_there(&self) -> bool;

    /// One call.
    fn call(&mut self, registers: Registers) -> Registers;
}

/// The CPU's.
pub struct Cpu;

impl Backdoor for Cpu {
    /// By the hypervisor's name (leaf 0x40000000), where there is a hypervisor (bit 31 of leaf 1's ecx).
    fn is_there(&self) -> bool {
        if __cpuid(1).ecx >> 31 == 0 {
            return false;
        }
        let leaf = __cpuid(0x4000_0000);
        [leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes).as_flattened() == b"VMwareVMware"
    }

    fn call(&mut self, registers: Registers) -> Registers {
        let Registers { mut ebx, mut ecx, mut edx, mut esi, mut edi } = registers;
        let mut rbx = u64::from(ebx);
        // SAFETY: a VMware hypervisor, which it was looked for, lets any process read this port; it changes these registers and
        // no memory. rbx is the compiler's own, and has its value again behind it.
        unsafe {
            asm!(
                "xchg {rbx}, rbx",
                "in eax, dx",
                "xchg {rbx}, rbx",
                rbx = inout(reg) rbx,
                inout("eax") MAGIC => _,
                inout("ecx") ecx,
                inout("edx") edx,
                inout("esi") esi,
                inout("edi") edi,
                options(nostack),
            );
        }
        ebx = u32::try_from(rbx & 0xffff_ffff).unwrap_or(ebx);
        Registers { ebx, ecx, edx, esi, edi }
    }
}

/// The variable, by this backdoor.
pub struct GuestInfo<B>(B);

/// This machine's.
pub fn of_this_machine() -> GuestInfo<Cpu> {
    GuestInfo(Cpu)
}

impl<B: Backdoor> Source for GuestInfo<B> {
    fn name(&self) -> &'static str {
        "VMware's guestinfo.containervm.spec"
    }

    fn read(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        if !self.0.is_there() {
            return Ok(None);
        }
        let mut line = Rpc::open(&mut self.0)?;
        let answer = line.send(QUESTION).and_then(|()| line.receive());
        line.close();
        let answer = answer?;
        if answer.starts_with(NO_VALUE) {
            return Ok(None);
        }
        match answer.strip_prefix(VALUE) {
            Some(value) => Ok(Some(value.to_vec())),
            None => Err(bad("an answer that is none")),
        }
    }
}

fn bad(what: &str) -> Failure {
    Failure::new(Spec, format!("asking VMware for guestinfo.containervm.spec: {what}"))
}

/// A channel of GuestRPC.
struct Rpc<'a, B> {
    backdoor: &'a mut B,
    /// The channel's number, in the upper half of edx.
    id: u32,
    /// The cookies: esi, edi.
    cookies: (u32, u32),
}

impl<'a, B: Backdoor> Rpc<'a, B> {
    fn open(backdoor: &'a mut B) -> Result<Self, Failure> {
        let ecx = OPEN << 16 | MESSAGE;
        let got = backdoor.call(Registers { ebx: RPCI, ecx, edx: PORT, ..Registers::default() });
        if got.ecx & SUCCESS == 0 {
            return Err(bad("it opens no channel"));
        }
        Ok(Self { backdoor, id: got.edx & 0xffff_0000, cookies: (got.esi, got.edi) })
    }

    /// One message of the channel; its answer, if it has succeeded.
    fn call(&mut self, kind: u32, ebx: u32) -> Result<Registers, Failure> {
        let (esi, edi) = self.cookies;
        let sent = Registers { ebx, ecx: kind << 16 | MESSAGE, edx: self.id | PORT, esi, edi };
        let got = self.backdoor.call(sent);
        if got.ecx & SUCCESS == 0 { Err(bad("it has broken off")) } else { Ok(got) }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.call(SEND_SIZE, u32::try_from(bytes.len()).unwrap_or(u32::MAX))?;
        for word in bytes.chunks(4) {
            let mut four = [0; 4];
            for (to, from) in four.iter_mut().zip(word) {
                *to = *from;
            }
            self.call(SEND_PAYLOAD, u32::from_le_bytes(four))?;
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<Vec<u8>, Failure> {
        // What it asks us to do comes in the upper half of edx, as what it would be to send it.
        let asks = |got: &Registers, kind: u32| got.edx >> 16 == kind;
        let got = self.call(RECEIVE_SIZE, 0)?;
        if got.ecx & HAS_ANSWER == 0 || !asks(&got, SEND_SIZE) {
            return Err(bad("it does not answer"));
        }
        let length = usize::try_from(got.ebx).unwrap_or(usize::MAX);
        if length > MOST_STORED {
            return Err(bad(&format!("an answer of {length} bytes, where {MOST_STORED} are the most")));
        }
        let mut answer = Vec::new();
        while answer.len() < length {
            let got = self.call(RECEIVE_PAYLOAD, SUCCESS >> 16)?;
            if !asks(&got, SEND_PAYLOAD) {
                return Err(bad("it has broken off"));
            }
            let left = length - answer.len();
            answer.extend(got.ebx.to_le_bytes().iter().take(left));
        }
        self.call(RECEIVE_STATUS, SUCCESS >> 16)?;
        Ok(answer)
    }

    fn close(mut self) {
        let _it_is_over = self.call(CLOSE, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host that answers as message.c expects it.
    #[derive(Default)]
    struct Host {
        absent: bool,
        answer: Vec<u8>,
        /// The size it says, if not the answer's.
        says: Option<u32>,
        /// The call, counted from 1, at which it breaks off.
        breaks: usize,
        calls: usize,
        open: bool,
        expected: usize,
        asked: Vec<u8>,
        given: usize,
    }

    const ID: u32 = 3 << 16;
    const COOKIES: (u32, u32) = (0x1111_2222, 0x3333_4444);

    impl Backdoor for Host {
        fn is_there(&self) -> bool {
            !self.absent
        }

        fn call(&mut self, sent: Registers) -> Registers {
            self.calls += 1;
            assert_eq!((sent.ecx & 0xffff, sent.edx & 0xffff), (MESSAGE, PORT));
            if self.calls == self.breaks {
                return Registers { ecx: 0, ..sent };
            }
            let kind = sent.ecx >> 16;
            let done = Registers { ecx: SUCCESS, ..sent };
            if kind == OPEN {
                assert_eq!(sent.ebx, 0xc943_5052, "RPCI, with cookies");
                self.open = true;
                return Registers { edx: ID, esi: COOKIES.0, edi: COOKIES.1, ..done };
            }
            assert!(self.open && sent.edx & 0xffff_0000 == ID && (sent.esi, sent.edi) == COOKIES);
            match kind {
                SEND_SIZE => self.expected = sent.ebx as usize,
                SEND_PAYLOAD => {
                    let left = self.expected - self.asked.len();
                    self.asked.extend(sent.ebx.to_le_bytes().iter().take(left));
                }
                RECEIVE_SIZE => {
                    assert_eq!(self.asked, QUESTION);
                    let ebx = self.says.unwrap_or(u32::try_from(self.answer.len()).unwrap());
                    return Registers { ebx, ecx: SUCCESS | HAS_ANSWER, edx: SEND_SIZE << 16, ..sent };
                }
                RECEIVE_PAYLOAD => {
                    let mut four = [0; 4];
                    let part = self.answer.get(self.given..).unwrap_or_default();
                    four.iter_mut().zip(part).for_each(|(to, from)| *to = *from);
                    self.given += 4;
                    return Registers { ebx: u32::from_le_bytes(four), edx: SEND_PAYLOAD << 16, ..done };
                }
                RECEIVE_STATUS => {}
                CLOSE => self.open = false,
                _ => panic!("message {kind}"),
            }
            done
        }
    }

    fn read(host: Host) -> (Result<Option<Vec<u8>>, Failure>, Host) {
        let mut source = GuestInfo(host);
        (source.read(), source.0)
    }

    #[test]
    fn the_variable_is_what_the_host_says() {
        for value in [&b"{\"machine\":{}}"[..], b"", b"a", b"abcd", &[b'x'; 70_000]] {
            let (got, host) = read(Host { answer: [b"1 ", value].concat(), ..Host::default() });
            assert_eq!(got.unwrap().as_deref(), Some(value));
            assert!(!host.open);
        }
        let (got, _) = read(Host { answer: b"0 No value found".to_vec(), ..Host::default() });
        assert_eq!(got.unwrap(), None);
        let (got, host) = read(Host { absent: true, ..Host::default() });
        assert_eq!((got.unwrap(), host.calls), (None, 0));
    }

    #[test]
    fn a_host_that_makes_no_sense_is_a_failure() {
        for answer in [&b""[..], b"0 Unknown command", b"1", b"2 x"] {
            let (got, host) = read(Host { answer: answer.to_vec(), ..Host::default() });
            assert_eq!(got.unwrap_err().0.stage, Spec);
            assert!(!host.open, "{answer:?}");
        }
        let (got, _) = read(Host { says: Some(u32::MAX), ..Host::default() });
        assert!(got.unwrap_err().to_string().contains("4294967295 bytes"));
        let whole = read(Host { answer: b"1 abc".to_vec(), ..Host::default() }).1.calls;
        // The last one closes the channel, and nothing depends on it.
        for breaks in 1..whole {
            let (got, _) = read(Host { answer: b"1 abc".to_vec(), breaks, ..Host::default() });
            assert!(got.is_err(), "broken off at call {breaks} of {whole}");
        }
    }

    #[test]
    fn this_machine_is_asked_only_if_it_is_vmwares() {
        // To call would be a fault.
        if !Cpu.is_there() {
            assert_eq!(of_this_machine().read().unwrap(), None);
        }
    }
}
