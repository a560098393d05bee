"""Stacks of CloudFormation that hold what Thalamus keeps in AWS."""
