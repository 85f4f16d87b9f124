"""wanpar for Conan 2: conan create .

LibTorch is no Conan package: it is the torch wheel of an activated Python environment or of .venv here, or where
-c user.wanpar:libtorch=/path/to/libtorch says.
"""

import glob
import os
import re

from conan import ConanFile
from conan.errors import ConanInvalidConfiguration
from conan.tools.build import check_min_cppstd
from conan.tools.cmake import CMake, CMakeToolchain, cmake_layout
from conan.tools.files import copy, load
from conan.tools.system.package_manager import Apt

required_conan_version = ">=2.4"

VERSION_HEADER = "include/torch/headeronly/version.h"


def libtorch_in(folders):
    """The first LibTorch among these folders, or wheels in these Python environments."""
    for folder in filter(None, folders):
        for found in [folder, *sorted(glob.glob(os.path.join(folder, "lib/python3*/site-packages/torch")))]:
            if os.path.exists(os.path.join(found, VERSION_HEADER)):
                return found
    return None


def version_of(libtorch):
    header = open(os.path.join(libtorch, VERSION_HEADER), encoding="utf-8").read()
    return ".".join(re.search(r"define TORCH_VERSION_{} (\d+)".format(part), header).group(1) for part in ("MAJOR", "MINOR"))


class Wanpar(ConanFile):
    name = "wanpar"
    description = "Parallel strategies for any LibTorch module"
    license = "Apache-2.0"
    topics = ("libtorch", "parallel", "distributed", "training")
    package_type = "library"
    settings = "os", "compiler", "build_type", "arch"
    options = {
        "shared": [True, False],
        "fPIC": [True, False],
        "cuda": [True, False],  # the NCCL transport; wants a CUDA toolkit and a torch wheel with all its dependencies
        "gloo": [True, False],
        "conformance": [True, False],  # wanpar::conformance, for those who write a transport or a strategy
        "libtorch": ["ANY"],  # its version, which must be that of the consumer's
    }
    default_options = {"shared": False, "fPIC": True, "cuda": False, "gloo": True, "conformance": False, "libtorch": "2.11"}
    implements = ["auto_shared_fpic"]

    def set_version(self):
        text = load(self, os.path.join(self.recipe_folder, "CMakeLists.txt"))
        self.version = re.search(r"project\(wanpar VERSION (\S+)", text).group(1)

    def export(self):
        copy(self, "CMakeLists.txt", self.recipe_folder, self.export_folder)

    def export_sources(self):
        for pattern in ("CMakeLists.txt", "LICENSE", "include/*", "src/*", "tests/conformance/suite/*", "tests/models/*",
                        "scripts/requirements.txt"):
            copy(self, pattern, self.recipe_folder, self.export_sources_folder)

    def layout(self):
        cmake_layout(self)

    def validate(self):
        check_min_cppstd(self, 20)
        if self.settings.os != "Linux" or self.settings.arch != "x86_64":
            raise ConanInvalidConfiguration("wanpar is for Linux on x86-64")

    def validate_build(self):
        self._libtorch()

    def system_requirements(self):
        packages = ["libfmt-dev", "nlohmann-json3-dev"] + (["libgloo-dev"] if self.options.gloo else [])
        Apt(self).install(packages, check=True)

    def _libtorch(self):
        named = self.conf.get("user.wanpar:libtorch")
        here = os.path.join(self.recipe_folder or "", ".venv")
        found = libtorch_in([named] if named else [os.environ.get("VIRTUAL_ENV"), os.environ.get("CONDA_PREFIX"), here])
        if not found:
            raise ConanInvalidConfiguration(
                "there is no LibTorch {}; activate a Python environment with the torch wheel, or say where LibTorch is "
                "by -c user.wanpar:libtorch=/path/to/libtorch".format("in " + named if named else "here"))
        if version_of(found) != str(self.options.libtorch):
            raise ConanInvalidConfiguration("the LibTorch in {} is {}; wanpar is to be built for {}, or with -o libtorch={}".format(
                found, version_of(found), self.options.libtorch, version_of(found)))
        return found

    def generate(self):
        toolchain = CMakeToolchain(self)
        toolchain.cache_variables.update({
            "Torch_DIR": os.path.join(self._libtorch(), "share", "cmake", "Torch"),
            "WANPAR_CUDA": "ON" if self.options.cuda else "OFF",
            "WANPAR_GLOO": bool(self.options.gloo),
            "WANPAR_CONFORMANCE": bool(self.options.conformance),
            "WANPAR_EXAMPLES": False,
            "WANPAR_TESTS": False,
            "WANPAR_BENCHMARKS": False,
        })
        toolchain.generate()

    def build(self):
        cmake = CMake(self)
        cmake.configure()
        cmake.build()

    def package(self):
        copy(self, "LICENSE", self.source_folder, os.path.join(self.package_folder, "licenses"))
        CMake(self).install()

    def package_info(self):
        # wanpar brings its own package for CMake, which finds the consumer's LibTorch.
        self.cpp_info.set_property("cmake_find_mode", "none")
        self.cpp_info.builddirs.append(os.path.join("lib", "cmake", "wanpar"))
        self.cpp_info.libs = ["wanpar"]
