// The backward's kernel: all steps in one launch, against time. A step:
//
//   cell    da to the group's blocks    dh~ = da W_hh (the block's columns with all of da)
//
// da for the others is stored first; da for the weights' gradients follows while theirs are on the way, and what the
// next step's cell reads from memory is fetched then.
#pragma once

#include "recurrence_exchange.cuh"
#include "recurrence_tiles.cuh"

namespace rnndrop::cuda {
namespace {

template <class M, Engine engine, bool general, int kSteps>
__global__ void __launch_bounds__(max_threads(sizeof(typename M::scalar_t), kSteps > 0), 1)
    recurrence_backward_kernel(const RecurrenceBackward r, const Tiling tiling, void* scratch) {
  using scalar_t = typename M::scalar_t;
  using acc_t = typename M::acc_t;
  DYN_SHARED(unsigned char, bytes);
  const Sizes s(tiling, engine);
  const Shared<M> shared(bytes, s);
  const Tile tile(r, s);
  const int64_t H = tile.H, state = tile.state, b_0 = tile.b_0, first = tile.first, first_row = tile.first_row;
  const int unit_0 = tile.unit_0;

  load_columns<M>(shared.W, offset<scalar_t>(r.W_hh, 0), s, unit_0, H);
  const ProductOf<M, kSteps> product(s, shared);
  // Columns beyond the last unit are multiplied too.
  fill_with_zeros(shared.in, s.buffers * s.batch * s.ld_in);
  // No step comes after the last, which is the first to run.
  fill_with_zeros(shared.partial, s.splits * s.batch * s.ld_partial);

  const TimeOrder order = r.order, backwards{order.T, !order.reverse};
  const Cells cells(s, tile);
  const int longest = general ? longest_of_tile(r, b_0, s.batch) : order.T;
  ExchangeOf<M, engine> exchange({s, shared, scratch, tiling.groups, tile.group, kGates, unit_0, cells});
  int64_t t = backwards.first();
  acc_t c[kCellsOfThread] = {}, dc[kCellsOfThread], carry[kCellsOfThread], m_h[kCellsOfThread];
  int end[kCellsOfThread];
  const scalar_t *dh_n = offset<scalar_t>(r.dh_n, first), *dc_n = offset<scalar_t>(r.dc_n, first);
  load_mask_h<scalar_t>(m_h, r.mask_h, cells, tile);
#pragma unroll
  for (int k = 0; k < kCellsOfThread; ++k) {
    if (!cells.inside[k]) continue;
    c[k] = offset<acc_t>(r.c, order.slot(t) * state + first)[cells.at[k]];
    dc[k] = dc_n ? acc_t(to_acc(dc_n[cells.at[k]])) : acc_t(0);
    carry[k] = dh_n ? acc_t(to_acc(dh_n[cells.at[k]])) : acc_t(0);
    if (general) end[k] = end_of(r, b_0 + cells.b[k]);
  }
  settle_loads(c);
  sync_group_after_set_up<engine>();

  scalar_t gates[kCellsOfThread][kGates], dy[kCellsOfThread];
  acc_t c_prev[kCellsOfThread];
  FetchedNoise<scalar_t> noise[kCellsOfThread];
  // As in the forward, in every kernel.
  const int dy_stride = r.dy_stride;
  const int64_t to_next = backwards.next(0) * state, dy_to_next = backwards.next(0) * tile.B * r.dy_stride,
                m_g_to_next = backwards.next(0) * elements_a_step<scalar_t>(r.noise.mask_g);
  const scalar_t* gates_t = offset<scalar_t>(r.gates, t * kGates * state + first_row);
  const acc_t* c_before = offset<acc_t>(r.c, order.slot_before(t) * state + first);
  const scalar_t* dy_t = offset<scalar_t>(r.dy, (t * tile.B + b_0) * r.dy_stride + unit_0);
  const scalar_t* m_g_t = noise_of_tile<scalar_t>(r.noise.mask_g, t, tile);
  scalar_t* da_t = offset<scalar_t>(r.da, t * kGates * state + first_row);
  const auto read_step = [&](const auto& read, int ahead = 0) {
    const int64_t elements_ahead = ahead * to_next;
#pragma unroll
    for (int k = 0; k < kCellsOfThread; ++k) {
      if (!cells.inside[k]) continue;
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) {
        read(gates[k][gate], gates_t + kGates * elements_ahead + cells.row[k] + gate * H);
      }
      read(c_prev[k], c_before + elements_ahead + cells.at[k]);
      if (r.dy) read(dy[k], dy_t + ahead * dy_to_next + cells.b[k] * dy_stride + cells.u[k]);
    }
    read_noise<general>(noise, r.noise, m_g_t + ahead * m_g_to_next, t, cells, tile, read);
  };
  read_step(Load());

  bool has_product = true;  // dh~ of the step after, in shared.partial
  for (int left = order.T; left > 0; --left) {
    const bool last = left == 1, running = !general || t < longest;
    acc_t da[kCellsOfThread][kGates] = {};
    scalar_t part[kCellsOfThread][kGates];
#pragma unroll
    for (int k = 0; k < kCellsOfThread; ++k) {
      const int b = cells.b[k], u = cells.u[k];
      if (cells.inside[k]) {
        acc_t dh_tilde[1] = {};
        if (!general || has_product) sum_of_splits(dh_tilde, s, shared.partial, b, u, 0);
        const acc_t dh = carry[k] + m_h[k] * dh_tilde[0];
        carry[k] = dh;
        if (!general || t < end[k]) {
          const acc_t dy_k = r.dy ? acc_t(to_acc(dy[k])) : acc_t(0);
          const CellBackward<acc_t> cell =
              cell_backward<general>(acc_t(to_acc(gates[k][kInput])), acc_t(to_acc(gates[k][kForget])),
                                     acc_t(to_acc(gates[k][kCandidate])), acc_t(to_acc(gates[k][kOutput])),
                                     cell_noise<general, acc_t>(noise[k], r.noise), c_prev[k], c[k], dh + dy_k, dc[k]);
          da[k][kInput] = cell.di_pre;
          da[k][kForget] = cell.df_pre;
          da[k][kCandidate] = cell.dg_pre;
          da[k][kOutput] = cell.do_pre;
          dc[k] = cell.dc_prev;
          carry[k] = cell.dh_prev;
        }
        c[k] = c_prev[k];
      }
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) part[k][gate] = M::operand(da[k][gate]);
    }
    if (running) exchange.send(part);

    t = backwards.next(t);
    gates_t += kGates * to_next;
    c_before += to_next;
    if (r.dy) dy_t += dy_to_next;
    m_g_t += m_g_to_next;
    clear_before_load(gates);
    clear_before_load(dy);
    clear_before_load(c_prev);
    clear_before_load<general>(noise);
    if (!last) read_step(Load());
    // The other kernels have no registers left for it.
    if (engine != Engine::block && !general && kSteps == 0 && s.prefetch > 0 && left > s.prefetch + 1)
      read_step(Prefetch(), s.prefetch);
#pragma unroll
    for (int k = 0; k < kCellsOfThread; ++k) {
      if (!cells.inside[k]) continue;
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) from_acc(da_t[cells.row[k] + gate * H], da[k][gate]);
    }
    da_t += kGates * to_next;
    has_product = running;  // past the ends da is 0
    if (running) {
      exchange.wait();
      product.run(shared, exchange);
      __syncthreads();
    }
  }

#pragma unroll
  for (int k = 0; k < kCellsOfThread; ++k) {
    if (!cells.inside[k]) continue;
    acc_t dh_tilde[1] = {};
    if (!general || has_product) sum_of_splits(dh_tilde, s, shared.partial, cells.b[k], cells.u[k], 0);
    if (r.dh_0) from_acc(offset<scalar_t>(r.dh_0, first)[cells.at[k]], carry[k] + m_h[k] * dh_tilde[0]);
    if (r.dc_0) from_acc(offset<scalar_t>(r.dc_0, first)[cells.at[k]], dc[k]);
  }
}

}  // namespace
}  // namespace rnndrop::cuda
