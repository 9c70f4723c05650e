"""The rebalancing policy the slow way: one loop a definition, no array, no pruning."""

from itertools import combinations, pairwise, product
from math import isnan, sqrt

from serving.policy.rebalance import RebalanceConfig
from serving.policy.views import RebalanceView


class Oracle:
    def __init__(self, view: RebalanceView, config: RebalanceConfig):
        self.view, self.config = view, config
        self.grid = [k for k in view.grid if k <= config.horizon_steps]
        edges = [0.0, *((a + b) / 2 for a, b in pairwise(self.grid))]
        edges.append(config.horizon_steps)
        self.cells = [b - a for a, b in pairwise(edges)]
        raw = [
            cell * config.decay ** (k / config.horizon_steps)
            for cell, k in zip(self.cells, self.grid, strict=True)
        ]
        self.weights = [w / sum(raw) for w in raw]
        self.workers = range(len(view.workers))
        self.rows = range(len(view.owner))
        self.over = self._over()
        self.under = self._under()

    def step_s(self, owner, worker, g):
        model, rows, tokens = self.view.step_models[worker], 0.0, 0.0
        for r in self.rows:
            if owner[r] == worker:
                rows += self.view.alive[r, g]
                tokens += (self.view.kv_len[r] + self.grid[g]) * self.view.alive[r, g]
        return model.base_s + model.per_row_s * rows + model.per_token_s * tokens

    def load_s(self, owner, worker):
        return sum(w * self.step_s(owner, worker, g) for g, w in enumerate(self.weights))

    def excess(self, owner, worker):
        peak = 0.0
        for g, k in enumerate(self.grid):
            mean, variance = self.view.pinned[worker], 0.0
            for r in self.rows:
                if owner[r] == worker:
                    p, n = self.view.alive[r, g], self.view.kv_len[r] + k
                    mean, variance = mean + n * p, variance + n * n * p * (1 - p)
            peak = max(peak, mean + self.config.z * sqrt(variance))
        capacity = self.view.capacity[worker]
        return max(0.0, peak / capacity - (1 - self.config.watermark))

    def score(self, owner):
        times = [[self.step_s(owner, d, g) for d in self.workers] for g in range(len(self.grid))]
        variance = 0.0
        for weight, at in zip(self.weights, times, strict=True):
            mean = sum(at) / len(at)
            variance += weight * sum((t - mean) ** 2 for t in at) / len(at)
        excess = sum(self.excess(owner, d) for d in self.workers)
        return excess, max(max(at) for at in times), variance

    def _over(self):
        loads = [self.load_s(self.view.owner, d) for d in self.workers]
        mean = sum(loads) / len(loads)
        return [
            self.at_stake(d)
            and load
            > mean
            * (1 + (self.config.th_out if name in self.view.was_over else self.config.th_in))
            * (1 + 1e-9)
            for d, (load, name) in enumerate(zip(loads, self.view.workers, strict=True))
        ]

    def at_stake(self, worker):
        worst = max(self.step_s(self.view.owner, worker, g) for g in range(len(self.grid)))
        target = self.view.target_s[worker]
        return isnan(target) or worst > self.config.stake * target * (1 + 1e-9)

    def _under(self):
        loads = [self.load_s(self.view.owner, d) for d in self.workers]
        mean = sum(loads) / len(loads)
        under = [load < mean * (1 - self.config.th_under) for load in loads]
        if any(self.over) and not any(under):
            return [load <= mean for load in loads]
        return under

    def repays(self, row, evicted_s):
        view, source = self.view, int(self.view.owner[row])
        remaining = sum(
            cell * view.alive[row, g] * self.step_s(view.owner, source, g)
            for g, cell in enumerate(self.cells)
        )
        size = view.kv_len[row] * view.kv_bytes_per_token
        move = view.link.latency_s + size / view.link.bytes_per_s
        return remaining > 0 and remaining >= self.config.payback * (move + evicted_s)

    def evicted_s(self, row, to):
        return max(0.0, self.view.kv_len[row] - self.view.blank[to]) * self.view.evict_s[to]

    def moved(self, pairs):
        owner = [int(d) for d in self.view.owner]
        for row, to in pairs:
            owner[row] = to
        return owner

    def allowed(self, row, to):
        view, source = self.view, int(self.view.owner[row])
        if source == to or not (view.movable[row] and view.may_send[source]):
            return False
        if not view.may_receive[to] or not self.repays(row, 0.0):
            return False
        before, after = self.moved([]), self.moved([(row, to)])
        now, then = self.score(before), self.score(after)
        if self.excess(after, to) > 1e-9 or then[1] > now[1] * (1 + 1e-9):
            return False
        if self.excess(before, source) - self.excess(after, source) > 1e-9:
            return True
        gap = self.load_s(before, source) - self.load_s(before, to)
        gap_after = self.load_s(after, source) - self.load_s(after, to)
        narrows = -1e-9 * abs(gap) <= gap_after < gap
        pair = now[2] * 2 / len(self.workers)
        share = max(self.config.min_gain, 1e-9)
        gains = now[1] - then[1] > share * now[1] or now[2] - then[2] > share * pair
        repays = self.repays(row, self.evicted_s(row, to))
        return self.over[source] and self.under[to] and narrows and gains and repays

    def candidates(self):
        return [pair for pair in product(self.rows, self.workers) if self.allowed(*pair)]

    def touched(self, pairs):
        return [int(self.view.owner[row]) for row, _ in pairs] + [to for _, to in pairs]

    def scores_of_sets(self):
        """The score of staying and of every set of moves, each allowed alone, workers apart."""
        candidates, scores = self.candidates(), [self.score(self.moved([]))]
        for size in range(1, self.config.max_moves + 1):
            for pairs in combinations(candidates, size):
                if len(set(self.touched(pairs))) == 2 * size:
                    scores.append(self.score(self.moved(pairs)))
        return scores
