#pragma once

namespace wan {

/// What has to be done before the constructors of LibTorch and its OpenMP run, which read their environment
/// there, and abort where memory is short: a program puts it into its .preinit_array.
///
/// Threads that wait for work sleep soon instead of spinning, unless the environment says otherwise: on cores
/// that others use too, spinning threads keep those from working for which they wait. Where the limits of
/// memory (ulimit -v, -d) leave too little to start at all, ends the process with 1 and a sentence.
void before_main(int count, char** words, char** environment);

}  // namespace wan
