//! What this machine is and allows, according to the system.

use crate::memory_map::MemoryMap;
use serde::Serialize;
use std::ffi::CStr;

/// The kernel, from `uname`.
#[derive(Serialize)]
pub struct Kernel {
    pub system: String,
    pub release: String,
}

pub fn kernel() -> Kernel {
    // SAFETY: all zeroes is a valid `utsname`, which the call fills with zero-terminated strings.
    let (system, release) = unsafe {
        let mut names: libc::utsname = std::mem::zeroed();
        libc::uname(&raw mut names);
        (
            CStr::from_ptr(names.sysname.as_ptr()).to_string_lossy().into_owned(),
            CStr::from_ptr(names.release.as_ptr()).to_string_lossy().into_owned(),
        )
    };
    Kernel { system, release }
}

/// The C library.
#[derive(Serialize)]
pub struct Libc {
    pub name: &'static str,
    pub version: String,
    /// The file that it was loaded from; the program itself if it is linked statically.
    pub file: Option<String>,
}

pub fn libc() -> Libc {
    #[cfg(target_env = "gnu")]
    // SAFETY: returns a string that exists as long as the library.
    let version = unsafe { CStr::from_ptr(libc::gnu_get_libc_version()) }.to_string_lossy().into_owned();
    // musl has no function that tells its version.
    #[cfg(target_env = "musl")]
    let version = "(its version is unknown)".to_owned();
    // Apple's libc is a part of the system and has the system's version.
    #[cfg(target_os = "macos")]
    let version = kernel().release;
    let map = MemoryMap::read();
    let file = map.in_file(libc::exit as *const () as usize).map(|(file, _)| file.to_owned());
    let name = match () {
        () if cfg!(target_os = "macos") => "libSystem",
        () if cfg!(target_env = "musl") => "musl",
        () => "glibc",
    };
    Libc { name, version, file }
}

/// A shadow stack: a second copy of all return addresses, which the processor checks at each
/// return.
#[derive(Serialize)]
pub struct ShadowStack {
    pub active: bool,
    pub found: String,
}

#[cfg(target_os = "macos")]
pub fn shadow_stack() -> ShadowStack {
    ShadowStack { active: false, found: "this system has none".to_owned() }
}

#[cfg(target_os = "linux")]
pub fn shadow_stack() -> ShadowStack {
    let mut state: libc::c_ulong = 0;
    // Linux' Documentation/arch/x86/shstk.rst: ARCH_SHSTK_STATUS, and bit 0 is ARCH_SHSTK_SHSTK.
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a query; the kernel writes one word.
    let result = unsafe { libc::syscall(libc::SYS_arch_prctl, 0x5005, &raw mut state) };
    // Linux' include/uapi/linux/prctl.h: PR_GET_SHADOW_STACK_STATUS, and bit 0 is
    // PR_SHADOW_STACK_ENABLE.
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: as above.
    let result = unsafe { libc::prctl(74, &raw mut state, 0, 0, 0) };
    let active = result == 0 && state & 1 != 0;
    let found = if active {
        "active: a changed return address would end the process; set EXEUNT_REDIRECT=code".to_owned()
    } else if result == 0 {
        "not active on this thread; this kernel supports shadow stacks".to_owned()
    } else {
        "not active; this kernel supports no shadow stacks".to_owned()
    };
    ShadowStack { active, found }
}

/// Pointer authentication: return addresses that are signed.
#[derive(Serialize)]
pub struct PointerAuthentication {
    pub available: bool,
    pub found: String,
}

pub fn pointer_authentication() -> PointerAuthentication {
    #[cfg(target_os = "macos")]
    {
        // Ordinary programs are built for arm64, without signatures; Apple's own for arm64e.
        let found = format!("programs for {} do not sign addresses on this system", std::env::consts::ARCH);
        PointerAuthentication { available: false, found }
    }
    #[cfg(all(target_os = "linux", target_arch = "aarch64"))]
    {
        // SAFETY: a query. Bits of AT_HWCAP: Linux' Documentation/arch/arm64/elf_hwcaps.rst.
        let capabilities = unsafe { libc::getauxval(libc::AT_HWCAP) };
        let available = capabilities & libc::HWCAP_PACA != 0;
        let found = if available {
            "this processor can sign addresses (HWCAP_PACA)"
        } else {
            "this processor cannot sign addresses (no HWCAP_PACA)"
        };
        PointerAuthentication { available, found: found.to_owned() }
    }
    #[cfg(all(target_os = "linux", not(target_arch = "aarch64")))]
    {
        let found = format!("{} processors do not sign addresses", std::env::consts::ARCH);
        PointerAuthentication { available: false, found }
    }
}

/// Whether a page can be made writable and read-only again. exeunt does that to the pages that hold
/// the trampolines' data.
#[derive(Serialize)]
pub struct PageProtection {
    pub works: bool,
    pub found: String,
}

pub fn page_protection() -> PageProtection {
    match protect_a_page() {
        Ok(()) => PageProtection { works: true, found: "a page was made writable and read-only again".to_owned() },
        Err((step, error)) => PageProtection { works: false, found: format!("{step}: {error}") },
    }
}

fn protect_a_page() -> Result<(), (&'static str, std::io::Error)> {
    // The size of the pages that hold the trampolines' data (asm/offsets.h): a filter that refuses
    // those should refuse this one.
    const SIZE: usize = 65536;
    let failed = |step| (step, std::io::Error::last_os_error());
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping that only this function uses. It is written only while it is writable,
    // and unmapped once.
    unsafe {
        let page = libc::mmap(std::ptr::null_mut(), SIZE, libc::PROT_READ, flags, -1, 0);
        if page == libc::MAP_FAILED {
            return Err(failed("a page could not be mapped"));
        }
        let mut result = Ok(());
        if libc::mprotect(page, SIZE, libc::PROT_READ | libc::PROT_WRITE) != 0 {
            result = Err(failed("a page could not be made writable"));
        } else {
            page.cast::<usize>().write_volatile(1);
            if libc::mprotect(page, SIZE, libc::PROT_READ) != 0 {
                result = Err(failed("a page could not be made read-only again"));
            }
        }
        libc::munmap(page, SIZE);
        result
    }
}

/// Whether the kernel can make all threads fetch changed code (`membarrier`), which code redirect
/// needs.
#[derive(Serialize)]
pub struct Membarrier {
    pub sync_core: bool,
    pub found: String,
}

#[cfg(target_os = "macos")]
pub fn membarrier() -> Membarrier {
    let found = if cfg!(target_arch = "x86_64") {
        "this system has no such call; removing a right from a page interrupts all processors"
    } else {
        "this system has no such call"
    };
    Membarrier { sync_core: false, found: found.to_owned() }
}

#[cfg(target_os = "linux")]
pub fn membarrier() -> Membarrier {
    // Linux' include/uapi/linux/membarrier.h.
    const QUERY: libc::c_int = 0;
    const PRIVATE_EXPEDITED_SYNC_CORE: libc::c_long = 1 << 5;
    // SAFETY: a query for the supported commands.
    let commands = unsafe { libc::syscall(libc::SYS_membarrier, QUERY, 0, 0) };
    let sync_core = commands >= 0 && commands & PRIVATE_EXPEDITED_SYNC_CORE != 0;
    let found = if commands < 0 {
        format!("refused, so code redirect is not possible: {}", std::io::Error::last_os_error())
    } else if sync_core {
        "PRIVATE_EXPEDITED_SYNC_CORE is available".to_owned()
    } else {
        "PRIVATE_EXPEDITED_SYNC_CORE is missing: code redirect is not possible (it needs Linux 4.16)".to_owned()
    };
    Membarrier { sync_core, found }
}

/// The kernel's number of the running thread.
pub fn thread() -> i32 {
    #[cfg(target_os = "linux")]
    // The C library's `gettid` would need glibc 2.30. SAFETY: a query.
    return unsafe { libc::syscall(libc::SYS_gettid) } as i32;
    #[cfg(target_os = "macos")]
    // SAFETY: a query. The port's name is unique among the process's threads.
    return unsafe { libc::pthread_mach_thread_np(libc::pthread_self()) } as i32;
}
