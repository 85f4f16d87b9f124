// says: let your struct name its members: auto wanpar_fields(Struct& s) { return std::tie(s.a, s.b); }
#include <wanpar/strategy/sequence_parallel.hpp>
struct Batch {
  at::Tensor tokens;
};
at::Tensor net(Batch batch);
void use() { (net | wanpar::sequence_parallel({}))(Batch()); }
