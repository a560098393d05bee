"""Stores in DynamoDB have the rights that services have in AWS, and no more."""

from __future__ import annotations

import pytest

from tests.support.aws_rights import only_with_rights as only_with_rights


@pytest.fixture(autouse=True)
def _rights_as_in_aws(request: pytest.FixtureRequest) -> None:
    if request.cls is not None and request.cls.__name__.startswith("TestDynamoDb"):
        request.getfixturevalue("only_with_rights")
