"""Conan's recipe for the archives of a release: it packs their files, and compiles nothing.

release/build writes conandata.yml with the archives' checksums and their address. The option
`-c user.exeunt:archives=ADDRESS` takes them from elsewhere, such as file:///path/to/dist.
"""

import os

from conan import ConanFile
from conan.errors import ConanInvalidConfiguration
from conan.tools.files import copy, get


class Exeunt(ConanFile):
    name = "exeunt"
    description = "Storage and exit handlers for any stack - thread, main thread or fiber"
    license = ("MIT", "Apache-2.0")
    topics = ("thread-local", "fiber", "coroutine", "stack")
    package_type = "library"
    # The interface is C's: the compiler of the program does not matter.
    settings = "os", "arch"
    options = {"shared": [True, False]}
    default_options = {"shared": True}
    required_conan_version = ">=2.0"

    def set_version(self):
        self.version = self.version or self.conan_data["version"]

    def validate(self):
        if self.settings.os != "Linux" or str(self.settings.arch) not in self.conan_data["sha256"]:
            raise ConanInvalidConfiguration("exeunt is for Linux on x86_64 and armv8")
        if self.settings.get_safe("os.libc") == "musl":
            raise ConanInvalidConfiguration("the archives of exeunt are for glibc")

    def build(self):
        arch = str(self.settings.arch)
        processor = {"x86_64": "x86_64", "armv8": "aarch64"}[arch]
        address = self.conf.get("user.exeunt:archives", default=self.conan_data["archives"])
        if not address:
            raise ConanInvalidConfiguration("nothing is published yet: -c user.exeunt:archives=ADDRESS says where the archives are")
        url = f"{address}/exeunt-{self.version}-linux-{processor}.tar.xz"
        get(self, url, sha256=self.conan_data["sha256"][arch], strip_root=True)

    def package(self):
        copy(self, "*", src=os.path.join(self.build_folder, "include"), dst=os.path.join(self.package_folder, "include"))
        wanted = "libexeunt.so*" if self.options.shared else "libexeunt.a"
        copy(self, wanted, src=os.path.join(self.build_folder, "lib"), dst=os.path.join(self.package_folder, "lib"))
        copy(self, "LICEN*", src=os.path.join(self.build_folder, "share/doc/exeunt"), dst=os.path.join(self.package_folder, "licenses"))
        copy(self, "exeunt.supp", src=os.path.join(self.build_folder, "share/exeunt"), dst=os.path.join(self.package_folder, "res"))

    def package_info(self):
        self.cpp_info.libs = ["exeunt"]
        self.cpp_info.resdirs = ["res"]
        self.cpp_info.set_property("cmake_file_name", "exeunt")
        self.cpp_info.set_property("cmake_target_name", "exeunt::exeunt")
        self.cpp_info.set_property("pkg_config_name", "exeunt")
        if not self.options.shared:
            self.cpp_info.system_libs = ["gcc_s", "pthread", "dl", "m", "rt", "util"]
