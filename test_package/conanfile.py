"""A program that trains its own module on two ranks, against the package that was made."""

import os

from conan import ConanFile
from conan.tools.build import can_run
from conan.tools.cmake import CMake, CMakeToolchain, cmake_layout


class TestPackage(ConanFile):
    settings = "os", "compiler", "build_type", "arch"
    generators = "CMakeDeps", "VirtualRunEnv"

    def requirements(self):
        self.requires(self.tested_reference_str)

    def layout(self):
        cmake_layout(self)

    def generate(self):
        toolchain = CMakeToolchain(self)
        libtorch = self.conf.get("user.wanpar:libtorch")
        if libtorch:
            toolchain.cache_variables["Torch_DIR"] = os.path.join(libtorch, "share", "cmake", "Torch")
        else:
            toolchain.cache_variables["LibTorch_VENV"] = os.path.join(self.recipe_folder, "..", ".venv")
        toolchain.generate()

    def build(self):
        cmake = CMake(self)
        cmake.configure()
        cmake.build()

    def test(self):
        if can_run(self):
            self.run(os.path.join(self.cpp.build.bindir, "train"), env="conanrun")
