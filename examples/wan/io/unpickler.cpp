#include "wan/io/unpickler.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <iterator>

#include "wanpar/core/error.hpp"

namespace wan {

using pickled::Dict;
using pickled::Global;
using pickled::Storage;
using pickled::Tensor;
using pickled::Tuple;
using pickled::Value;

namespace {

// Opcodes of pickle protocol 2, by the names that Python's pickletools gives them.
enum Opcode : unsigned char {
  kProto = 0x80,
  kEmptyDict = '}',
  kEmptyTuple = ')',
  kMark = '(',
  kGlobal = 'c',
  kReduce = 'R',
  kBuild = 'b',
  kBinPut = 'q',
  kLongBinPut = 'r',
  kBinGet = 'h',
  kLongBinGet = 'j',
  kBinUnicode = 'X',
  kBinInt = 'J',
  kBinInt1 = 'K',
  kBinInt2 = 'M',
  kLong1 = 0x8a,
  kBinPersId = 'Q',
  kTuple = 't',
  kTuple1 = 0x85,
  kTuple2 = 0x86,
  kTuple3 = 0x87,
  kNewTrue = 0x88,
  kNewFalse = 0x89,
  kNone = 'N',
  kSetItem = 's',
  kSetItems = 'u',
  kStop = '.',
};

constexpr const char* kOrderedDict = "collections OrderedDict";
constexpr const char* kRebuildTensor = "torch._utils _rebuild_tensor_v2";

constexpr std::pair<const char*, at::ScalarType> kStorages[] = {
    {"torch DoubleStorage", at::kDouble}, {"torch FloatStorage", at::kFloat},
    {"torch HalfStorage", at::kHalf},     {"torch BFloat16Storage", at::kBFloat16},
    {"torch LongStorage", at::kLong},     {"torch IntStorage", at::kInt},
    {"torch ShortStorage", at::kShort},   {"torch CharStorage", at::kChar},
    {"torch ByteStorage", at::kByte},     {"torch BoolStorage", at::kBool},
};

[[noreturn]] void refuse(const std::string& why) { throw wanpar::Error("the pickle " + why); }

template <class T>
const T& as(const Value* value, const char* what) {
  const auto* content = std::get_if<T>(&value->content);
  if (content == nullptr) refuse(fmt::format("has another thing where {} belongs", what));
  return *content;
}

bool is_known(const std::string& global) {
  return global == kOrderedDict || global == kRebuildTensor ||
         std::any_of(std::begin(kStorages), std::end(kStorages),
                     [&](const auto& storage) { return global == storage.first; });
}

at::ScalarType dtype_of(const std::string& storage) {
  for (const auto& [name, dtype] : kStorages) {
    if (storage == name) return dtype;
  }
  refuse(fmt::format("makes a storage of '{}'", storage));
}

std::vector<int64_t> counts(const Value* value, const char* what) {
  std::vector<int64_t> counts;
  for (const auto* item : as<Tuple>(value, what).items) counts.push_back(as<int64_t>(item, what));
  return counts;
}

/// Arguments: storage, offset, sizes, strides, then what matters to training only.
Tensor rebuild_tensor(const std::vector<const Value*>& arguments) {
  if (arguments.size() < 4) refuse("rebuilds a tensor from too few arguments");
  return {as<Storage>(arguments[0], "a storage"), as<int64_t>(arguments[1], "an offset"),
          counts(arguments[2], "a size"), counts(arguments[3], "a stride")};
}

}  // namespace

const Value& Unpickler::run() {
  for (auto opcode = number<unsigned char>(); opcode != kStop; opcode = number<unsigned char>()) step(opcode);
  return *pop();
}

void Unpickler::step(unsigned char opcode) {
  switch (opcode) {
    case kProto:
      if (const int version = number<unsigned char>(); version != 2) {
        refuse(fmt::format("has protocol {}, not 2", version));
      }
      return;
    case kNone:
      return push({pickled::None{}});
    case kNewTrue:
      return push({true});
    case kNewFalse:
      return push({false});
    case kBinInt:
      return push({int64_t{number<int32_t>()}});
    case kBinInt1:
      return push({int64_t{number<uint8_t>()}});
    case kBinInt2:
      return push({int64_t{number<uint16_t>()}});
    case kLong1:
      return push_long();
    case kBinUnicode:
      return push({std::string(take(number<uint32_t>()))});
    case kGlobal:
      return push_global();
    case kEmptyDict:
      return push({Dict{}});
    case kMark:
      return marks_.push_back(stack_.size());
    case kTuple:
      return push({Tuple{pop_to_mark()}});
    case kEmptyTuple:
      return push_tuple(0);
    case kTuple1:
      return push_tuple(1);
    case kTuple2:
      return push_tuple(2);
    case kTuple3:
      return push_tuple(3);
    case kSetItems:
      return set_items(pop_to_mark());
    case kSetItem: {
      const auto *value = pop(), *key = pop();
      return set_items({key, value});
    }
    case kBinPut:
    case kLongBinPut: {
      const uint32_t index = opcode == kBinPut ? number<uint8_t>() : number<uint32_t>();
      auto* value = pop();
      stack_.push_back(value);
      memo_[index] = value;
      return;
    }
    case kBinGet:
    case kLongBinGet: {
      const uint32_t index = opcode == kBinGet ? number<uint8_t>() : number<uint32_t>();
      const auto found = memo_.find(index);
      if (found == memo_.end()) refuse(fmt::format("recalls memo {}, which it never made", index));
      return stack_.push_back(found->second);
    }
    case kBinPersId:
      return persistent_load();
    case kReduce:
      return reduce();
    case kBuild:
      return build();
  }
  refuse(fmt::format("has the opcode 0x{:02x} at byte {}, which no state dict needs", opcode, position_ - 1));
}

void Unpickler::push(Value value) { stack_.push_back(&values_.emplace_back(std::move(value))); }

Value* Unpickler::pop() {
  const size_t floor = marks_.empty() ? 0 : marks_.back();
  if (stack_.size() == floor) refuse("takes a value from an empty stack");
  auto* value = stack_.back();
  stack_.pop_back();
  return value;
}

std::vector<const Value*> Unpickler::pop_to_mark() {
  if (marks_.empty()) refuse("has no mark to go back to");
  const auto first = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
  std::vector<const Value*> values(first, stack_.end());
  stack_.erase(first, stack_.end());
  marks_.pop_back();
  return values;
}

void Unpickler::push_tuple(size_t size) {
  Tuple tuple;
  while (tuple.items.size() < size) tuple.items.push_back(pop());
  std::reverse(tuple.items.begin(), tuple.items.end());
  push({std::move(tuple)});
}

void Unpickler::set_items(const std::vector<const Value*>& items) {
  auto* target = pop();
  stack_.push_back(target);
  auto* dict = std::get_if<Dict>(&target->content);
  if (dict == nullptr || items.size() % 2 != 0) refuse("sets items of something that is no dictionary");
  for (size_t i = 0; i < items.size(); i += 2) dict->items.emplace_back(items[i], items[i + 1]);
}

void Unpickler::push_global() {
  const auto module = line(), name = line();
  const auto global = fmt::format("{} {}", module, name);
  if (!is_known(global)) {
    refuse(fmt::format("asks for '{}.{}', which no state dict needs, so it is not trusted", module, name));
  }
  push({Global{global}});
}

void Unpickler::push_long() {
  const auto digits = take(number<uint8_t>());
  if (digits.size() > sizeof(int64_t)) refuse("has a number beyond 64 bits");
  const bool negative = !digits.empty() && (digits.back() & 0x80) != 0;
  int64_t value = negative ? -1 : 0;
  std::memcpy(&value, digits.data(), digits.size());
  push({value});
}

/// The id of a storage is the tuple ("storage", its type, its key, its device, its elements).
void Unpickler::persistent_load() {
  const auto& id = as<Tuple>(pop(), "the id of a storage").items;
  if (id.size() != 5 || as<std::string>(id[0], "the id of a storage") != "storage") {
    refuse("refers to something that is no storage");
  }
  push({Storage{as<std::string>(id[2], "a storage's key"),
                dtype_of(as<Global>(id[1], "a storage's type").name),
                as<int64_t>(id[4], "a storage's size")}});
}

void Unpickler::reduce() {
  const auto& arguments = as<Tuple>(pop(), "a call's arguments").items;
  const auto& function = as<Global>(pop(), "a function").name;
  if (function == kRebuildTensor) return push({rebuild_tensor(arguments)});
  if (function == kOrderedDict && arguments.empty()) return push({Dict{}});
  refuse(fmt::format("calls '{}' with {} arguments", function, arguments.size()));
}

/// An OrderedDict's attributes, `_metadata` with the versions of the modules among them, are not needed.
void Unpickler::build() {
  as<Dict>(pop(), "an attribute dictionary");
  auto* target = pop();
  as<Dict>(target, "a dictionary with attributes");
  stack_.push_back(target);
}

template <class T>
T Unpickler::number() {
  T value;
  std::memcpy(&value, take(sizeof value).data(), sizeof value);
  return value;
}

std::string_view Unpickler::take(size_t size) {
  if (size > program_.size() - position_) refuse("ends too early");
  position_ += size;
  return program_.substr(position_ - size, size);
}

std::string_view Unpickler::line() {
  const auto end = program_.find('\n', position_);
  if (end == std::string_view::npos) refuse("ends too early");
  const auto text = take(end - position_);
  take(1);
  return text;
}

}  // namespace wan
