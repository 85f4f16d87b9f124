#pragma once
#include <c10/util/intrusive_ptr.h>
#include <wanpar/extend/core/transport.hpp>

#include <functional>
#include <memory>

namespace c10d {
class Backend;
}

namespace wanpar {

/// Makes a c10d backend for a group: `name` is unique to it, `rank` is this process's place among `size`.
using BackendFactory =
    std::function<c10::intrusive_ptr<c10d::Backend>(const std::string& name, int rank, int size)>;

/// The transport over a c10d backend of the user's own. It needs allreduce, broadcast, send and recv of the
/// backend; everything else is made of these. One of NCCL moves tensors on a GPU, by its own collectives; any
/// other takes them where they are, and those that groups make for themselves on the CPU. Without a factory,
/// its groups cannot be split.
std::shared_ptr<Transport> c10d_transport(c10::intrusive_ptr<c10d::Backend> backend,
                                          BackendFactory factory = {});

}  // namespace wanpar
