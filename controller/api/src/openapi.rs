//! Renders the OpenAPI document from the table of endpoints.

use std::collections::BTreeMap;

use utoipa::openapi::path::{OperationBuilder, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{ComponentsBuilder, ObjectBuilder, Ref, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    Content, HttpMethod, InfoBuilder, OpenApi, OpenApiBuilder, PathItem, Paths, RefOr, Required, ResponseBuilder,
    Schema,
};
use utoipa::{PartialSchema, ToSchema};

use crate::endpoint::{Body, Endpoint, Method, Reply, Shape, endpoints};
use crate::{ErrorBody, Problem};

/// The version of this interface. Grows with every change a client can see.
pub const API_VERSION: &str = "1.0.0";

/// Renders the document.
#[must_use]
pub fn document() -> OpenApi {
    let mut schemas: BTreeMap<String, RefOr<Schema>> = BTreeMap::new();
    let mut paths = Paths::new();
    for endpoint in endpoints() {
        collect(&endpoint, &mut schemas);
        let method = match endpoint.method {
            Method::Get => HttpMethod::Get,
            Method::Put => HttpMethod::Put,
            Method::Post => HttpMethod::Post,
        };
        let item = PathItem::new(method, operation(&endpoint));
        match paths.paths.get_mut(endpoint.path) {
            Some(existing) => existing.merge_operations(item),
            None => {
                paths.paths.insert(endpoint.path.to_owned(), item);
            }
        }
    }
    schemas.insert(ErrorBody::name().into_owned(), ErrorBody::schema());
    schemas.insert(Problem::name().into_owned(), Problem::schema());
    let components = ComponentsBuilder::new()
        .schemas_from_iter(schemas)
        .security_scheme("token", SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build()))
        .build();
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("osModa fleet")
                .version(API_VERSION)
                .description(Some("The controller of a fleet. It transports signed orders and shows the fleet log; it decides nothing."))
                .license(Some(utoipa::openapi::LicenseBuilder::new().name("Apache-2.0").build()))
                .build(),
        )
        .paths(paths)
        .components(Some(components))
        .build()
}

/// The document as the checked-in text: pretty JSON with a last newline.
///
/// # Errors
/// Those of serde_json; none for a document made by [`document`].
pub fn text() -> Result<String, serde_json::Error> {
    Ok(document().to_pretty_json()? + "\n")
}

fn collect(endpoint: &Endpoint, into: &mut BTreeMap<String, RefOr<Schema>>) {
    let mut add = |shape: &Shape| into.extend(shape.schemas.iter().cloned());
    if let Body::Json(shape) = &endpoint.body {
        add(shape);
    }
    if let Reply::Json(shape) | Reply::Events(shape) = &endpoint.reply {
        add(shape);
    }
}

fn operation(endpoint: &Endpoint) -> utoipa::openapi::path::Operation {
    let mut builder = OperationBuilder::new()
        .operation_id(Some(endpoint.operation))
        .tag(endpoint.tag)
        .summary(Some(endpoint.about))
        .response(endpoint.status.to_string(), success(&endpoint.reply));
    for parameter in parameters(endpoint) {
        builder = builder.parameter(parameter);
    }
    if let Some(body) = request_body(&endpoint.body) {
        builder = builder.request_body(Some(body));
    }
    if endpoint.open {
        return builder.build();
    }
    for (status, codes) in refusals(endpoint) {
        let response = ResponseBuilder::new()
            .description(codes.join(", "))
            .content("application/json", Content::new(Some(reference(&ErrorBody::name()))))
            .content("application/problem+json", Content::new(Some(reference(&Problem::name()))))
            .build();
        builder = builder.response(status.to_string(), response);
    }
    builder.security(SecurityRequirement::new("token", Vec::<String>::new())).build()
}

/// The refusals by status, those that every endpoint shares included.
fn refusals(endpoint: &Endpoint) -> BTreeMap<u16, Vec<&'static str>> {
    use osmoda_types::ErrorCode;
    let mut codes = vec![ErrorCode::Unauthorized, ErrorCode::Internal, ErrorCode::ShuttingDown];
    if endpoint.path.contains('{') || !endpoint.query.is_empty() || !matches!(endpoint.body, Body::None) {
        codes.push(ErrorCode::BadRequest);
    }
    if matches!(endpoint.body, Body::Json(_)) {
        codes.push(ErrorCode::TooLarge);
    }
    codes.extend(endpoint.refusals);
    let mut by_status: BTreeMap<u16, Vec<&'static str>> = BTreeMap::new();
    for code in codes {
        by_status.entry(code.http_status()).or_default().push(code.as_str());
    }
    by_status
}

fn parameters(endpoint: &Endpoint) -> Vec<Parameter> {
    let text = || ObjectBuilder::new().schema_type(Type::String).build();
    let names = endpoint.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let mut all: Vec<Parameter> = names
        .map(|name| {
            ParameterBuilder::new()
                .name(name)
                .parameter_in(ParameterIn::Path)
                .required(Required::True)
                .schema(Some(text()))
                .build()
        })
        .collect();
    all.extend(endpoint.query.iter().map(|query| {
        let schema = match query.name {
            "limit" => ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1)).maximum(Some(crate::LIMIT_MAX)),
            _ => ObjectBuilder::new().schema_type(Type::String),
        };
        ParameterBuilder::new()
            .name(query.name)
            .parameter_in(ParameterIn::Query)
            .required(Required::False)
            .description(Some(query.about))
            .schema(Some(schema.build()))
            .build()
    }));
    all
}

fn request_body(body: &Body) -> Option<utoipa::openapi::request_body::RequestBody> {
    let (media, content) = match body {
        Body::None => return None,
        Body::Json(shape) => ("application/json", Content::new(Some(reference(&shape.name)))),
        Body::Manifest => {
            ("application/json", Content::new(Some(ObjectBuilder::new().schema_type(Type::Object).build())))
        }
    };
    Some(RequestBodyBuilder::new().content(media, content).required(Some(Required::True)).build())
}

fn success(reply: &Reply) -> utoipa::openapi::Response {
    let (media, content) = match reply {
        Reply::Json(shape) => ("application/json", Content::new(Some(reference(&shape.name)))),
        Reply::Events(shape) => ("text/event-stream", Content::new(Some(reference(&shape.name)))),
        Reply::Manifest | Reply::OpenApi => {
            ("application/json", Content::new(Some(ObjectBuilder::new().schema_type(Type::Object).build())))
        }
    };
    ResponseBuilder::new().description("done").content(media, content).build()
}

fn reference(name: &str) -> Ref {
    Ref::from_schema_name(name)
}
