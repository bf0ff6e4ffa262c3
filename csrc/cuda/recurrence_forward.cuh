// The forward's kernel: all steps in one launch. A step:
//
//   a = W_hh h~ (the block's rows with all of h~)    cell    h~ to the group's blocks
//
// h~ is stored first; gates, c and y follow while the others' parts are on their way, and what the next step's cell
// reads from memory is fetched then.
#pragma once

#include "recurrence_exchange.cuh"
#include "recurrence_tiles.cuh"

namespace rnndrop::cuda {
namespace {

template <class M, Engine engine, bool general, int kSteps>
__global__ void __launch_bounds__(max_threads(sizeof(typename M::scalar_t), kSteps > 0), 1)
    recurrence_forward_kernel(const RecurrenceForward r, const Tiling tiling, void* scratch) {
  using scalar_t = typename M::scalar_t;
  using acc_t = typename M::acc_t;
  DYN_SHARED(unsigned char, bytes);
  const Sizes s(tiling, engine);
  const Shared<M> shared(bytes, s);
  const Tile tile(r, s);
  const int64_t H = tile.H, state = tile.state, b_0 = tile.b_0, first = tile.first, first_row = tile.first_row;
  const int unit_0 = tile.unit_0;

  load_rows<M>(shared.W, offset<scalar_t>(r.W_hh, 0), s, unit_0, H);
  const ProductOf<M, kSteps> product(s, shared);
  for (int n = threadIdx.x; n < s.rows; n += blockDim.x) {
    const int64_t j = unit_0 + n % s.units, column = n / s.units * H + j;
    acc_t bias = 0;
    if (j < H && r.b_ih) bias += to_acc(offset<scalar_t>(r.b_ih, column)[0]);
    if (j < H && r.b_hh) bias += to_acc(offset<scalar_t>(r.b_hh, column)[0]);
    shared.bias[n] = bias;
  }
  // Columns beyond the last unit are multiplied too.
  fill_with_zeros(shared.in, s.buffers * s.batch * s.ld_in);

  const scalar_t* h_0 = offset<scalar_t>(r.h_0, first);
  const scalar_t* c_0 = offset<scalar_t>(r.c_0, first);
  const TimeOrder order = r.order;
  const Cells cells(s, tile);
  const int longest = general ? longest_of_tile(r, b_0, s.batch) : order.T;
  ExchangeOf<M, engine> exchange({s, shared, scratch, tiling.groups, tile.group, 1, unit_0, cells});
  int64_t t = order.first();
  acc_t c[kCellsOfThread] = {}, h[kCellsOfThread], m_h[kCellsOfThread];
  int end[kCellsOfThread];
  acc_t* c_before = offset<acc_t>(r.c, r.c_slot(order.slot_before(t)) * state + first);
  load_mask_h<scalar_t>(m_h, r.mask_h, cells, tile);
#pragma unroll
  for (int k = 0; k < kCellsOfThread; ++k) {
    if (!cells.inside[k]) continue;
    h[k] = h_0 ? acc_t(to_acc(h_0[cells.at[k]])) : acc_t(0);
    c[k] = c_0 ? acc_t(to_acc(c_0[cells.at[k]])) : acc_t(0);
    if (r.gates) c_before[cells.at[k]] = c[k];  // the backward reads it there
    if (general) end[k] = end_of(r, b_0 + cells.b[k]);
  }
  settle_loads(c);
  settle_loads(m_h);
  sync_group_after_set_up<engine>();

  scalar_t from_x[kCellsOfThread][kGates];
  FetchedNoise<scalar_t> noise[kCellsOfThread];
  // Where a step's entries are; where an array is absent, nobody looks. To the next step it is an addition, since
  // products of 64 bits for each array take longer than to ask for what lies there. Not in the kernels that have no
  // registers left for it, nor in block, where nvcc has each step wait for what was loaded before the first.
  constexpr bool kMovesPointers = engine != Engine::block && !general && kSteps == 0;
  const int64_t to_next = order.next(0) * state,
                m_g_to_next = order.next(0) * elements_a_step<scalar_t>(r.noise.mask_g);
  const scalar_t *x_t, *m_g_t;
  scalar_t *gates_t, *y_t;
  acc_t* c_t;
  const auto point_reads_at = [&](int64_t step) {
    x_t = offset<scalar_t>(r.from_x, step * kGates * state + first_row);
    m_g_t = noise_of_tile<scalar_t>(r.noise.mask_g, step, tile);
  };
  const auto point_writes_at = [&](int64_t step) {
    gates_t = offset<scalar_t>(r.gates, step * kGates * state + first_row);
    y_t = offset<scalar_t>(r.y, step * state + first);
    c_t = offset<acc_t>(r.c, r.c_slot(order.slot(step)) * state + first);
  };
  point_reads_at(t);
  point_writes_at(t);
  const auto read_step = [&](int64_t step, const auto& read, int ahead = 0) {
    const scalar_t* const x = x_t + ahead * kGates * to_next;
#pragma unroll
    for (int k = 0; k < kCellsOfThread; ++k) {
      if (!cells.inside[k]) continue;
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) read(from_x[k][gate], x + cells.row[k] + gate * H);
    }
    read_noise<general>(noise, r.noise, m_g_t + ahead * m_g_to_next, step, cells, tile, read);
  };
  // The first h~ goes the way of all others, to whichever step is the first to run.
  const bool starts = !general || longest > 0;
  if (starts) {
    scalar_t h_tilde[kCellsOfThread][1];
#pragma unroll
    for (int k = 0; k < kCellsOfThread; ++k) {
      h_tilde[k][0] = M::operand(cells.inside[k] ? m_h[k] * h[k] : acc_t(0));
    }
    exchange.send(h_tilde);
  }
  read_step(t, Load());
  if (starts) exchange.wait();

  for (int left = order.T; left > 0; --left) {
    const bool last = left == 1, running = !general || t < longest;
    const int64_t t_next = order.next(t);
    // Past the ends h does not change, so that there is nothing to hand over.
    const bool hands_over = !last && running && (!general || t_next < longest);
    if (running) product.run(shared, exchange);
    __syncthreads();  // the product is complete, and the input may be overwritten

    CellForward<acc_t> cell[kCellsOfThread];
    scalar_t h_tilde[kCellsOfThread][1];
#pragma unroll
    for (int k = 0; k < kCellsOfThread; ++k) {
      const int b = cells.b[k], u = cells.u[k];
      h_tilde[k][0] = M::operand(acc_t(0));
      if (cells.inside[k]) {
        cell[k] = {0, 0, 0, 0, c[k], 0};
        if (!general || t < end[k]) {
          // Asked for ahead of the loop over the splits.
          acc_t bias[kGates], pre[kGates];
#pragma unroll
          for (int gate = 0; gate < kGates; ++gate) bias[gate] = shared.bias[gate * s.units + u];
          sum_of_splits(pre, s, shared.partial, b, u, s.units);
#pragma unroll
          for (int gate = 0; gate < kGates; ++gate) pre[gate] += acc_t(to_acc(from_x[k][gate])) + bias[gate];
          cell[k] =
              cell_forward<general>(pre[kInput], pre[kForget], pre[kCandidate], pre[kOutput],
                                    cell_noise<general, acc_t>(noise[k], r.noise), c[k], general ? h[k] : acc_t(0));
          c[k] = cell[k].c;
          h[k] = to_acc(rounded<scalar_t>(cell[k].h));
        }
        h_tilde[k][0] = M::operand(m_h[k] * h[k]);
      }
    }
    if (hands_over) exchange.send(h_tilde);

    clear_before_load(from_x);
    clear_before_load<general>(noise);
    if (kMovesPointers) {
      x_t += kGates * to_next;
      m_g_t += m_g_to_next;
    } else if (!last) {
      point_reads_at(t_next);
    }
    if (!last) read_step(t_next, Load());
    if (kMovesPointers && s.prefetch > 0 && left > s.prefetch + 1) read_step(t_next, Prefetch(), s.prefetch);
    // Without gates c has two slots, in turn, and only the last step writes to one.
    if (!kMovesPointers || (last && !r.gates)) point_writes_at(t);
#pragma unroll
    for (int k = 0; k < kCellsOfThread; ++k) {
      if (!cells.inside[k]) continue;
      if (r.gates) {
        scalar_t* const gates = gates_t + cells.row[k];
        from_acc(gates[kInput * H], cell[k].i);
        from_acc(gates[kForget * H], cell[k].f);
        from_acc(gates[kCandidate * H], cell[k].g);
        from_acc(gates[kOutput * H], cell[k].o);
      }
      from_acc(y_t[cells.at[k]], cell[k].h);
      if (r.gates || last) c_t[cells.at[k]] = c[k];
    }
    if (kMovesPointers) {
      if (r.gates) gates_t += kGates * to_next;
      y_t += to_next;
      c_t += to_next;
    }
    if (hands_over) exchange.wait();
    t = t_next;
  }

#pragma unroll
  for (int k = 0; k < kCellsOfThread; ++k) {
    if (!cells.inside[k]) continue;
    from_acc(offset<scalar_t>(r.h_n, first)[cells.at[k]], h[k]);
    from_acc(offset<scalar_t>(r.c_n, first)[cells.at[k]], c[k]);
  }
}

}  // namespace
}  // namespace rnndrop::cuda
