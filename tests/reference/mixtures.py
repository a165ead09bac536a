"""EM for a mixture of normal distributions, value by value; and BIC."""

import math


def em(values, weights, means, spreads, steps):
    n, k = len(values), len(weights)
    whole = math.sqrt(sum((v - sum(values) / n) ** 2 for v in values) / n)
    for _ in range(steps):
        shares = []
        for v in values:
            density = [weights[j] / spreads[j] * math.exp(-0.5 * ((v - means[j]) / spreads[j]) ** 2) for j in range(k)]
            shares.append([d / sum(density) for d in density])
        mass = [sum(row[j] for row in shares) for j in range(k)]
        means = [sum(row[j] * v for row, v in zip(shares, values, strict=True)) / mass[j] for j in range(k)]
        squares = [sum(row[j] * (v - means[j]) ** 2 for row, v in zip(shares, values, strict=True)) / mass[j] for j in range(k)]
        weights, spreads = [m / n for m in mass], [math.sqrt(s + (0.02 * whole) ** 2) for s in squares]
    return weights, means, spreads
