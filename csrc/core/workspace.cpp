#include "core/workspace.h"

#include <new>

namespace weebill {
namespace {

constexpr std::size_t kAlignment = 64;

std::byte* allocate(std::size_t bytes) {
  return static_cast<std::byte*>(::operator new(bytes, std::align_val_t(kAlignment)));
}

void release(std::byte* data) { ::operator delete(data, std::align_val_t(kAlignment)); }

}  // namespace

Workspace& Workspace::of_this_thread() {
  thread_local Workspace workspace;
  return workspace;
}

Workspace::~Workspace() {
  for (const Chunk& chunk : chunks_) release(chunk.data);
}

void* Workspace::take_bytes(std::size_t bytes) {
  bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  while (chunk_ < chunks_.size() && chunks_[chunk_].size - used_ < bytes) {
    ++chunk_;
    used_ = 0;
  }
  if (chunk_ == chunks_.size()) {
    chunks_.reserve(chunks_.size() + 1);
    chunks_.push_back({allocate(bytes), bytes});
    used_ = 0;
  }
  std::byte* data = chunks_[chunk_].data + used_;
  used_ += bytes;
  return data;
}

// Several chunks become one as large as all of them, so that the next call finds its needs in one.
void Workspace::merge() {
  if (chunks_.size() < 2) return;
  std::size_t total = 0;
  for (const Chunk& chunk : chunks_) {
    total += chunk.size;
    release(chunk.data);
  }
  chunks_.clear();
  chunks_.push_back({allocate(total), total});
}

Workspace::Scope::Scope(Workspace& workspace)
    : workspace_(workspace), chunk_(workspace.chunk_), used_(workspace.used_) {}

Workspace::Scope::~Scope() {
  workspace_.chunk_ = chunk_;
  workspace_.used_ = used_;
  if (chunk_ == 0 && used_ == 0) {
    try {
      workspace_.merge();
    } catch (const std::bad_alloc&) {
      // Nothing is held then; the next call asks again, and reports it.
    }
  }
}

}  // namespace weebill
