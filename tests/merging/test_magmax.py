import torch

from src.merging.magmax import largest


def test_the_largest_entry_of_a_column_wins_and_of_equal_ones_the_last():
    stack = torch.tensor([[1.0, -3.0, 2.0, -2.0, 0.0, -1.0], [-2.0, 2.0, -2.0, 2.0, 0.0, -2.0], [0.5, 1.0, 1.0, -2.0, 0.0, -0.5]])
    assert largest(stack).tolist() == [-2.0, -3.0, -2.0, -2.0, 0.0, -2.0]
    assert largest(stack[:1]).tolist() == stack[0].tolist()


def test_columns_are_those_of_a_search_task_by_task():
    stack = torch.randint(-3, 4, (5, 1000)).float()
    expected = stack[0]
    for row in stack[1:]:
        expected = torch.where(row.abs() >= expected.abs(), row, expected)
    assert torch.equal(largest(stack), expected)
