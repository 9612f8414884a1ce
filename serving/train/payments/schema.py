"""What the two tables of the payments case hold, and what a client sends: one row of FP32 numbers, in a fixed order.

- A number is sent as it is. A category is sent as its code: its place among `levels`, from 0.
- A value that is not known is `MISSING` (-1; any negative number is taken for it). Every value that is known is not
  negative, so the two cannot be confused, and NaN never has to cross the wire.
- A number beyond its declared range is taken as the end of that range.

Left out on purpose, as neither decisions nor screens may look at them: age and marital status (credit_data; protected
by the Equal Credit Opportunity Act, 15 U.S.C. 1691), the state an applicant lives in (lending_club; a proxy for race).
Left out as nearly constant: accounts now delinquent and the amount delinquent (lending_club; zero in 99 % of rows).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MISSING = -1.0
ORDINAL_SUB_GRADES = tuple(f"{grade}{step}" for grade in "ABCDEFG" for step in "12345")
EMPLOYMENT_YEARS = ("emp_lt_1", *(f"emp_{years}" for years in range(1, 10)), "emp_ge_10")


@dataclass(frozen=True, slots=True)
class Feature:
    """One column of the input. With `levels` a category; with `ranks` a category read as the number of its place."""

    name: str
    high: float = 0.0
    levels: tuple[str, ...] = ()
    ranks: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    """Levels of the table that mean that the value is missing."""

    @property
    def top(self) -> float:
        """The largest value that may be sent."""
        places = self.levels or self.ranks
        return float(len(places) - 1) if places else self.high


@dataclass(frozen=True, slots=True)
class Ratio:
    """max(sum of weight * feature, 0) * times / max(over, over_min); missing when a feature in `needs` is.

    A feature of the sum that is missing without being needed counts as 0.
    """

    name: str
    sum: Mapping[str, float]
    over: str
    over_min: float
    needs: tuple[str, ...]
    times: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A term that training may choose: a function of one feature or ratio, added to the logit of "bad".

    `direction`: 1 never falls, -1 never rises, 0 free. `reason` is what an applicant is told where it counts against.
    """

    source: str
    direction: int
    reason: str


@dataclass(frozen=True, slots=True)
class Schema:
    """A table, its label ("bad" is what is predicted), features in the order of the input, and candidates for terms."""

    table: str
    label: str
    features: tuple[Feature, ...]
    ratios: tuple[Ratio, ...]
    candidates: tuple[Candidate, ...]
    sha256: str
    """`table_digest` of the published table."""
    left_out: tuple[str, ...]

    @property
    def input_high(self) -> float:
        """The largest value any feature may have: the declared range of the whole tensor."""
        return max(feature.top for feature in self.features)


CREDIT_DATA = Schema(
    table="credit_data",
    label="Status",
    features=(
        Feature("Seniority", 60),
        Feature("Home", levels=("ignore", "other", "owner", "parents", "priv", "rent")),
        Feature("Time", 120),
        Feature("Records", levels=("no", "yes")),
        Feature("Job", levels=("fixed", "freelance", "others", "partime")),
        Feature("Expenses", 1_000),
        Feature("Income", 10_000),
        Feature("Assets", 1_000_000),
        Feature("Debt", 100_000),
        Feature("Amount", 50_000),
        Feature("Price", 50_000),
    ),
    ratios=(
        Ratio("Financed", {"Amount": 100.0}, "Price", 1.0, ("Amount", "Price")),
        Ratio(
            # What is left of a month's income, debts repaid at 1 % a month, against a month's instalment; in hundredths
            "Capacity",
            {"Income": 100.0, "Expenses": -100.0, "Debt": -1.0},
            "Amount",
            1.0,
            ("Income", "Expenses", "Time", "Amount"),
            times="Time",
        ),
    ),
    candidates=(
        Candidate("Seniority", -1, "Short time in the present job"),
        Candidate("Home", 0, "Housing situation"),
        Candidate("Time", 0, "Duration of the loan"),
        Candidate("Records", 0, "Records of earlier defaults"),
        Candidate("Job", 0, "Kind of employment"),
        Candidate("Expenses", 0, "Monthly expenses"),
        Candidate("Income", -1, "Low income"),
        Candidate("Assets", -1, "Few assets"),
        Candidate("Debt", 1, "Existing debts"),
        Candidate("Amount", 1, "Amount of the loan"),
        Candidate("Price", 0, "Price of the goods"),
        Candidate("Financed", 1, "Large share of the price is financed"),
        Candidate("Capacity", -1, "Little income left for the instalments"),
    ),
    sha256="4cc7c104ecbd133b4ddefc087d595fdfd0bd66ae0264c40c0644f6714993b2fc",
    left_out=("Age", "Marital"),
)

LENDING_CLUB = Schema(
    table="lending_club",
    label="Class",
    features=(
        Feature("funded_amnt", 100_000),
        Feature("term", levels=("term_36", "term_60")),
        Feature("int_rate", 100),
        Feature("sub_grade", ranks=ORDINAL_SUB_GRADES),
        Feature("verification_status", levels=("Not_Verified", "Source_Verified", "Verified")),
        Feature("annual_inc", 5_000_000),
        Feature("emp_length", ranks=EMPLOYMENT_YEARS, unknown=("emp_unk",)),
        Feature("delinq_2yrs", 50),
        Feature("inq_last_6mths", 50),
        Feature("revol_util", 200),
        Feature("open_il_6m", 100),
        Feature("open_il_12m", 100),
        Feature("open_il_24m", 100),
        Feature("total_bal_il", 5_000_000),
        Feature("all_util", 300),
        Feature("inq_fi", 100),
        Feature("inq_last_12m", 100),
        Feature("num_il_tl", 200),
        Feature("total_il_high_credit_limit", 5_000_000),
    ),
    ratios=(Ratio("Loan_to_income", {"funded_amnt": 100.0}, "annual_inc", 1_000.0, ("funded_amnt", "annual_inc")),),
    candidates=(
        Candidate("funded_amnt", 1, "Amount of the loan"),
        Candidate("term", 0, "Duration of the loan"),
        Candidate("int_rate", 1, "Interest rate of the loan"),
        Candidate("sub_grade", 1, "Grade given by the lender"),
        Candidate("verification_status", 0, "Verification of income"),
        Candidate("annual_inc", -1, "Low income"),
        Candidate("emp_length", 0, "Length of employment"),
        Candidate("delinq_2yrs", 1, "Late payments in two years"),
        Candidate("inq_last_6mths", 1, "Recent credit inquiries, six months"),
        Candidate("revol_util", 1, "Use of revolving credit"),
        Candidate("open_il_6m", 0, "Open instalment accounts, six months"),
        Candidate("open_il_12m", 1, "Instalment accounts opened in a year"),
        Candidate("open_il_24m", 1, "Instalment accounts opened in two years"),
        Candidate("total_bal_il", 0, "Balance of instalment accounts"),
        Candidate("all_util", 1, "Balance against credit limits"),
        Candidate("inq_fi", 1, "Inquiries of personal finance"),
        Candidate("inq_last_12m", 1, "Recent credit inquiries, a year"),
        Candidate("num_il_tl", 0, "Number of instalment accounts"),
        Candidate("total_il_high_credit_limit", 0, "Limit of instalment accounts"),
        Candidate("Loan_to_income", 1, "Loan large against income"),
    ),
    sha256="64e5a0dda974c778223c361c1dec671957aa310df52c6629981c4b3bf9e111a3",
    left_out=("addr_state", "acc_now_delinq", "delinq_amnt"),
)

SCHEMAS: Mapping[str, Schema] = {schema.table: schema for schema in (CREDIT_DATA, LENDING_CLUB)}
